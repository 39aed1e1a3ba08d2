package auth

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"berth/auth/token"
)

func TestTokenEndpoint(t *testing.T) {
	robots := &robotList{}
	secret := robots.add(t, "ci", "**", "pull")
	g := openGate(t, Config{Rules: rules(t, true), Robots: robots, Refresh: true, TokenLifetime: time.Second})
	plain := openGate(t, Config{Rules: rules(t, true)})
	get := func(r *http.Request, query string) *http.Request {
		r.URL.RawQuery = query
		return r
	}
	post := func(form string) *http.Request {
		r := httptest.NewRequest(http.MethodPost, "https://registry.test:5000/auth/token", strings.NewReader(form))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		return r
	}
	_, offline := g.tokens(t, get(basic("ann", "ann"), "offline_token=true"))
	refresh, _ := offline["refresh_token"].(string)
	if refresh == "" || offline["expires_in"] != 60.0 || offline["issued_at"] != nil || offline["access_token"] != offline["token"] {
		t.Fatalf("got %v", offline)
	}
	noForm := post("grant_type=password")
	noForm.Header.Set("Content-Type", "application/json")
	for name, test := range map[string]struct {
		gate *Gate
		r    *http.Request
		want int
		has  []string
	}{
		"stranger":             {g, request(), 200, nil},
		"stranger, offline":    {g, get(request(), "offline_token=true"), 200, nil},
		"ann":                  {g, basic("ann", "ann"), 200, nil},
		"ann, offline, off":    {plain, get(basic("ann", "ann"), "offline_token=true"), 200, nil},
		"robot, offline":       {g, get(basic("x", secret), "offline_token=true"), 200, []string{"refresh_token"}},
		"wrong":                {g, basic("ann", "wrong"), 401, []string{"errors"}},
		"bearer":               {g, bearer(refresh), 401, nil},
		"post, password":       {g, post("grant_type=password&username=ann&password=ann&scope=repository:team/x:pull"), 200, nil},
		"post, offline":        {g, post("grant_type=password&username=ann&password=ann&access_type=offline"), 200, []string{"refresh_token"}},
		"post, wrong":          {g, post("grant_type=password&username=ann&password=x"), 401, []string{"error"}},
		"post, refresh":        {g, post("grant_type=refresh_token&refresh_token=" + refresh), 200, nil},
		"post, refresh, wrong": {g, post("grant_type=refresh_token&refresh_token=x"), 401, nil},
		"post, access as such": {g, post("grant_type=refresh_token&refresh_token=" + offline["token"].(string)), 401, nil},
		"post, refresh, off":   {plain, post("grant_type=refresh_token&refresh_token=" + refresh), 401, nil},
		"post, another grant":  {g, post("grant_type=code"), 400, []string{"error"}},
		"post, no form":        {g, noForm, 400, nil},
		"post, too long":       {g, post("a=" + strings.Repeat("x", maxForm)), 400, nil},
		"delete":               {g, httptest.NewRequest(http.MethodDelete, "/auth/token", nil), 405, nil},
	} {
		status, body := test.gate.tokens(t, test.r)
		if status != test.want {
			t.Errorf("%s: got %d %v, want %d", name, status, body, test.want)
		}
		for _, key := range test.has {
			if body[key] == nil {
				t.Errorf("%s: %s is missing in %v", name, key, body)
			}
		}
		if _, ok := body["refresh_token"]; ok && !slices.Contains(test.has, "refresh_token") {
			t.Errorf("%s: got a refresh token", name)
		}
		if _, ok := body["token"]; ok != (test.want == 200) {
			t.Errorf("%s: got %v", name, body)
		}
	}
	// A refresh token dies with the credential.
	g.SetUsers(cheap(t, "ann"), "a test")
	if status, _ := g.tokens(t, post("grant_type=refresh_token&refresh_token="+refresh)); status != 401 {
		t.Errorf("after another password: %d", status)
	}
}

func TestExternalGate(t *testing.T) {
	keys, err := token.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	server, jwks := newServer(t, keys)
	g := openGate(t, Config{External: &ExternalServer{Realm: "https://auth.test/token", ExternalConfig: jwks}})
	raw := server(token.Scope{Type: "repository", Name: "a", Actions: []string{"pull"}}, token.Scope{Type: "registry", Name: "catalog", Actions: []string{"*"}})
	for _, test := range []struct {
		name string
		r    *http.Request
		ask  ask
		want string
	}{
		{"stranger", request(), base, "401 Bearer"},
		{"stranger", request(), pull("a"), "401 Bearer repository:a:pull"},
		{"stranger", request(), catalog, "401 Bearer registry:catalog:*"},
		{"password", basic("ann", "ann"), pull("a"), "401 Bearer"},
		{"token", bearer(raw), base, "200"},
		{"token", bearer(raw), pull("a"), "200"},
		{"token", bearer(raw), catalog, "200"},
		{"token", bearer(raw), push("a"), "401 Bearer insufficient_scope repository:a:pull,push"},
		{"token", bearer(raw), pull("b"), "401 Bearer insufficient_scope repository:b:pull"},
		{"no token", bearer("x"), pull("a"), "401 Bearer invalid_token"},
	} {
		if got := g.answer(test.r, test.ask); got != test.want {
			t.Errorf("%s, %+v: got %s, want %s", test.name, test.ask, got, test.want)
		}
	}
	w := httptest.NewRecorder()
	g.ServeToken(w, request(), Origin{})
	if w.Code != http.StatusNotFound {
		t.Errorf("the endpoint answers %d", w.Code)
	}
	c, refusal := g.Admit(bearer(raw), Origin{})
	if refusal != nil || c.Name() != "ann" || !c.Sees("whatever") {
		t.Errorf("got %v, %v", c, refusal)
	}
}
