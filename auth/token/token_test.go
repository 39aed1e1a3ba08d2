package token

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

func newKeys(t testing.TB) (*Keys, []byte) {
	t.Helper()
	data, err := GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return parseKeys(t, data), data
}

func parseKeys(t testing.TB, data []byte) *Keys {
	t.Helper()
	keys, err := ParseKeys(data)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func newECKey(t testing.TB, curve elliptic.Curve) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
}

var now = time.Unix(1_800_000_000, 0)

func claims() Claims {
	return Claims{User: "ann", Generation: "g", Access: []Scope{{TypeRepository, "team/app", []string{"pull", "push"}}}}
}

func TestIssueAndVerify(t *testing.T) {
	ed, _ := newKeys(t)
	for name, keys := range map[string]*Keys{"Ed25519": ed, "P-256": parseKeys(t, newECKey(t, elliptic.P256()))} {
		raw, err := keys.Issue(claims(), now, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		got, err := keys.Verify(raw, now)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want := claims()
		want.Expires, want.from = now.Add(time.Hour), now
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v", name, got)
		}
		if text, _ := base64.RawURLEncoding.DecodeString(strings.Split(raw, ".")[1]); strings.Contains(string(text), "iat") {
			t.Errorf("%s: it says when it was issued: %s", name, text)
		}
	}
}

// TestVerifyRefuses has a case for each way in which a token can be wrong.
func TestVerifyRefuses(t *testing.T) {
	keys, _ := newKeys(t)
	others, _ := newKeys(t)
	sign := func(keys *Keys, audience string, at time.Time) string {
		raw, err := keys.issue(Claims{User: "ann", Expires: at.Add(time.Hour)}, audience, at)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	good := sign(keys, accessAudience, now)
	parts := strings.Split(good, ".")
	if _, err := keys.Verify(good, now); err != nil {
		t.Fatal(err)
	}
	endless, err := keys.issue(Claims{User: "ann"}, accessAudience, now)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := jwt.Signed(keys.signer).Claims(jwt.Claims{Issuer: "another", Audience: jwt.Audience{accessAudience},
		Expiry: jwt.NewNumericDate(now.Add(time.Hour))}).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	refresh, err := keys.IssueRefresh(claims(), now)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct{ raw, want string }{
		"another key":            {sign(others, accessAudience, now), "not signed"},
		"another audience":       {sign(keys, "other", now), "another service"},
		"a refresh token":        {refresh, "another service"},
		"another issuer":         {foreign, "another issuer"},
		"no signature":           {parts[0] + "." + parts[1] + ".", "not signed"},
		"a broken signature":     {parts[0] + "." + parts[1] + "." + flip(parts[2]), "not signed"},
		"other claims":           {parts[0] + "." + flip(parts[1]) + "." + parts[2], "not signed"},
		"algorithm none":         {header(`{"alg":"none","typ":"JWT"}`) + "." + parts[1] + ".", "not signed"},
		"HMAC with a public key": {forgeHMAC(t, keys, parts[1]), "not signed"},
		"expired":                {sign(keys, accessAudience, now.Add(-time.Hour-Skew-time.Second)), "expired"},
		"not valid yet":          {sign(keys, accessAudience, now.Add(Skew+time.Second)), "not valid yet"},
		"without an end":         {endless, "no end"},
		"not a token":            {"secret", "not signed"},
		"nothing":                {"", "not signed"},
		"too long":               {strings.Repeat("x", maxToken+1), "too long"},
	} {
		c, err := keys.Verify(test.raw, now)
		if err == nil || !strings.Contains(err.Error(), test.want) || !reflect.DeepEqual(c, Claims{}) {
			t.Errorf("%s: got %+v, %v, want %q", name, c, err, test.want)
		}
		if err != nil && len(test.raw) > 5 && strings.Contains(err.Error(), test.raw) {
			t.Errorf("%s: the error has the token in it", name)
		}
	}
	if _, err := keys.VerifyRefresh(good, now); err == nil {
		t.Error("a token for access passed for a refresh token")
	}
	for name, at := range map[string]time.Time{"just expired": now.Add(-time.Hour - Skew/2), "just early": now.Add(Skew / 2)} {
		if _, err := keys.Verify(sign(keys, accessAudience, at), now); err != nil {
			t.Errorf("%s: %v, though clocks may be apart", name, err)
		}
	}
}

func header(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

// flip changes a character in the middle, where all of its bits count.
func flip(s string) string {
	i := len(s) / 2
	c := byte('A')
	if s[i] == c {
		c = 'B'
	}
	return s[:i] + string(c) + s[i+1:]
}

// forgeHMAC signs claims with what everybody may know, for a verifier that lets tokens choose the algorithm.
func forgeHMAC(t *testing.T, keys *Keys, payload string) string {
	t.Helper()
	for id, public := range keys.public {
		der, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			t.Fatal(err)
		}
		text := header(`{"alg":"HS256","kid":"`+id+`"}`) + "." + payload
		mac := hmac.New(sha256.New, der)
		mac.Write([]byte(text))
		return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	}
	return ""
}

func TestRefresh(t *testing.T) {
	keys, _ := newKeys(t)
	raw, err := keys.IssueRefresh(claims(), now)
	if err != nil {
		t.Fatal(err)
	}
	c, err := keys.VerifyRefresh(raw, now.AddDate(10, 0, 0))
	if err != nil || c.User != "ann" || c.Generation != "g" || len(c.Access) > 0 {
		t.Errorf("got %+v, %v", c, err)
	}
}

func TestRotation(t *testing.T) {
	old, data := newKeys(t)
	rotated, err := RotateKeys(data)
	if err != nil {
		t.Fatal(err)
	}
	both := parseKeys(t, rotated)
	raw, err := old.Issue(claims(), now, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := both.Verify(raw, now); err != nil {
		t.Errorf("a token of the old key: %v", err)
	}
	made, err := both.Issue(claims(), now, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := old.Verify(made, now); err == nil {
		t.Error("the old key still signs")
	}
	again, err := RotateKeys(rotated)
	if err != nil {
		t.Fatal(err)
	}
	newest := parseKeys(t, again)
	if _, err := newest.Verify(made, now); err != nil {
		t.Errorf("a token of the key before: %v", err)
	}
	if _, err := newest.Verify(raw, now); err == nil {
		t.Error("the oldest key is still good")
	}
}

func TestParseKeysRefuses(t *testing.T) {
	_, good := newKeys(t)
	for name, test := range map[string]struct{ data, want string }{
		"nothing":       {"", "no private key"},
		"text":          {"secret", "no private key"},
		"behind":        {string(good) + "secret", "behind the last key"},
		"another curve": {string(newECKey(t, elliptic.P384())), "P-256"},
		"damaged":       {"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n", "key 1: it is damaged"},
		"a certificate": {"-----BEGIN CERTIFICATE-----\nc2VjcmV0\n-----END CERTIFICATE-----\n", "it is no private key"},
		"a bad second":  {string(good) + "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n", "key 2: it is damaged"},
		"more than enough": {strings.Repeat(string(good), 1) + func() string {
			var all string
			for range maxKeys {
				_, one := newKeys(t)
				all += string(one)
			}
			return all
		}(), "more than 10 keys"},
	} {
		keys, err := ParseKeys([]byte(test.data))
		if keys != nil || err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// counting counts how often its verifier is asked.
type counting struct {
	Verifier
	asked int
}

func (c *counting) Verify(raw string, now time.Time) (Claims, error) {
	c.asked++
	return c.Verifier.Verify(raw, now)
}

func TestMemory(t *testing.T) {
	keys, _ := newKeys(t)
	m := NewMemory()
	defer m.Close()
	raw, err := keys.Issue(claims(), now, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	v := &counting{Verifier: keys}
	for _, test := range []struct {
		at   time.Time
		want error
	}{
		{now, nil}, {now.Add(time.Hour), nil}, {now.Add(time.Hour + Skew + 1), ErrExpired}, {now.Add(-Skew - 1), errEarly}, {now, nil},
	} {
		c, err := m.Verify(v, raw, test.at)
		if !errors.Is(err, test.want) || err == nil && c.User != "ann" {
			t.Errorf("at %v: got %+v, %v", test.at, c, err)
		}
	}
	if v.asked != 1 {
		t.Errorf("asked %d times", v.asked)
	}
	for range 2 {
		if _, err := m.Verify(v, flip(raw), now); err == nil {
			t.Error("a wrong token is good")
		}
	}
	if v.asked != 3 {
		t.Errorf("asked %d times: what was wrong is not to be remembered", v.asked)
	}
	large := claims()
	for i := range 100 {
		large.Access = append(large.Access, Scope{TypeRepository, fmt.Sprint("repository", i), []string{"pull"}})
	}
	big, err := keys.Issue(large, now, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	v.asked = 0
	for range 2 {
		if _, err := m.Verify(v, big, now); err != nil {
			t.Error(err)
		}
	}
	if v.asked != 2 {
		t.Errorf("asked %d times: what is large is not to be remembered", v.asked)
	}
	other, _ := newKeys(t)
	if _, err := m.Verify(other, raw, now); err == nil {
		t.Error("other keys vouch for what these found good")
	}
}

func TestParseScopes(t *testing.T) {
	for _, test := range []struct {
		parameters []string
		want       string
	}{
		{[]string{"repository:team/app:pull,push"}, "repository:team/app:pull,push"},
		{[]string{"repository:a:pull repository:b:pull,push"}, "repository:a:pull repository:b:pull,push"},
		{[]string{"repository:a:pull", "repository:b:pull", "repository:a:push,pull"}, "repository:a:pull,push repository:b:pull"},
		{[]string{"repository:a:*", "registry:catalog:*"}, "repository:a:* registry:catalog:*"},
		{[]string{"repository(plugin):a:pull,pull,"}, "repository:a:pull"},
		{[]string{"repository:host:5000/a:delete"}, "repository:host:5000/a:delete"},
		{[]string{"", "x", "repository:a", "repository::pull", ":a:pull", "repository:a:", "a:b:c", "a:b:pull"}, "a:b:pull"},
		{[]string{"repository:" + strings.Repeat("a", maxScope) + ":pull"}, ""},
	} {
		var texts []string
		for _, s := range ParseScopes(test.parameters) {
			texts = append(texts, s.String())
		}
		if got := strings.Join(texts, " "); got != test.want {
			t.Errorf("%q: got %q, want %q", test.parameters, got, test.want)
		}
	}
	var fly []string
	for i := range 100_000 {
		fly = append(fly, fmt.Sprint("a", i))
	}
	if got := ParseScopes([]string{strings.Repeat("repository:a:"+strings.Join(fly, ",")+" ", 3)}); len(got) != 0 {
		t.Errorf("got %d scopes", len(got))
	}
	var many []string
	for i := range 2 * maxScopes {
		many = append(many, "repository:"+strings.Repeat("a", i+1)+":pull")
	}
	if got := len(ParseScopes(many)); got != maxScopes {
		t.Errorf("got %d scopes", got)
	}
}

func FuzzParseScopes(f *testing.F) {
	for _, seed := range []string{"repository:a:pull,push", "repository(plugin):a:b:c", " : : ", "registry:catalog:*"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, scope := range ParseScopes([]string{s, s}) {
			if scope.Type == "" || scope.Name == "" || len(scope.Actions) == 0 || len(scope.Actions) > len(knownActions) {
				t.Errorf("%q: %+v", s, scope)
			}
			if again := ParseScopes([]string{scope.String()}); len(again) != 1 || !reflect.DeepEqual(again[0], scope) {
				t.Errorf("%q: %+v is read as %+v", s, scope, again)
			}
		}
	})
}

func FuzzVerify(f *testing.F) {
	keys, data := newKeys(f)
	raw, err := keys.Issue(claims(), now, time.Hour)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw, data)
	f.Add("a.b.c", []byte("x"))
	f.Fuzz(func(t *testing.T, token string, pem []byte) {
		if c, err := keys.Verify(token, now); err == nil && token != raw {
			t.Errorf("%q is %+v", token, c)
		}
		if keys, err := ParseKeys(pem); (keys == nil) == (err == nil) {
			t.Errorf("got %v, %v", keys, err)
		}
	})
}

// writeKeySet returns a JSON Web Key Set.
func writeKeySet(t *testing.T, keys ...jose.JSONWebKey) []byte {
	t.Helper()
	data, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	return data
}
