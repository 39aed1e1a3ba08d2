package auth

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

// These were made with crypt(3) of Debian's libxcrypt, which is another implementation than the one that is tested.
const (
	hashA    = "$2a$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2" // correct horse
	hashB    = "$2b$05$ABCDEFGHIJKLMNOPQRSTUuyx6TpPBjjfxTCfY4J6M44T0BZCTOGee" // pässword:with:colons
	hashY    = "$2y$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2" // correct horse
	hashLong = "$2y$05$ABCDEFGHIJKLMNOPQRSTUuwfsLgzhX2zZ8kF927J76YsBRMf4bT26" // 80 times x
)

func openFile(t *testing.T, content string) (*Users, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "htpasswd")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return OpenHtpasswd(path)
}

// verify checks one password from an address of its own.
func verify(t *testing.T, users *Users, user, password string) bool {
	t.Helper()
	p := newPasswords(users)
	defer p.close()
	return p.check(t.Context(), user, password, "192.0.2.1").outcome == right
}

func TestVerify(t *testing.T) {
	users, err := openFile(t, "\ufeff# the team\r\n\r\nalice:"+hashA+"\r\n  bob:"+hashB+"\t\nCarol Ann:"+hashY+"\n#dave:"+hashY+"\nlong:"+hashLong)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		user, password string
		want           bool
	}{
		{"alice", "correct horse", true},
		{"alice", "correct horse ", false},
		{"alice", "", false},
		{"Alice", "correct horse", false},
		{"bob", "pässword:with:colons", true},
		{"bob", "correct horse", false},
		{"Carol Ann", "correct horse", true},
		{"long", strings.Repeat("x", 80), true},
		{"long", strings.Repeat("x", 72), true},
		{"long", strings.Repeat("x", 71), false},
		{"dave", "correct horse", false},
		{"#dave", "correct horse", false},
		{"", "", false},
		{"", "correct horse", false},
	} {
		if got := verify(t, users, test.user, test.password); got != test.want {
			t.Errorf("user %q, password %q: got %t", test.user, test.password, got)
		}
	}
}

func TestOpenHtpasswdRefuses(t *testing.T) {
	for _, test := range []struct {
		name, content, message string
	}{
		{"MD5", "# one\nalice:" + hashA + "\nbob:$apr1$secret$secret\n", `line 3: the user "bob": the password is not hashed with bcrypt`},
		{"SHA-1", "bob:{SHA}secret=", "line 1: "},
		{"plain text", "bob:secret", "not hashed with bcrypt"},
		{"no hash", "bob:", "not hashed with bcrypt"},
		{"no colon", "secret", "line 1: expected the form user:hash"},
		{"no user", ":" + hashA, `line 1: bad user name ""`},
		{"control character", "b\x00b:" + hashA, `bad user name "b\x00b"`},
		{"UTF-16", "\xff\xfea\x00:\x00", "line 1: bad user name"},
		{"twice", "bob:" + hashA + "\n\nbob:" + hashB, `line 3: the user "bob" is there twice`},
		{"short", "bob:" + hashA[:59], "not hashed with bcrypt"},
		{"long", "bob:" + hashA + "a", "not hashed with bcrypt"},
		{"a comment behind", "bob:" + hashA + ":secret", "not hashed with bcrypt"},
		{"bad character", "bob:" + hashA[:59] + "=", "not hashed with bcrypt"},
		{"old version", "bob:$2x" + hashA[3:], "not hashed with bcrypt"},
		{"cost is no number", "bob:$2a$1x" + hashA[6:], "impossible cost"},
		{"cost is too low", "bob:$2a$03" + hashA[6:], "impossible cost"},
		{"cost is beyond bcrypt", "bob:$2a$32" + hashA[6:], "impossible cost"},
		{"cost is too high", "bob:$2a$18" + hashA[6:], "use at most 17"},
	} {
		t.Run(test.name, func(t *testing.T) {
			users, err := openFile(t, test.content)
			if err == nil || !strings.Contains(err.Error(), test.message) {
				t.Fatalf("got error %v, want %q in it", err, test.message)
			}
			if users != nil {
				t.Error("got users beside the error")
			}
			if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), hashA[29:59]) {
				t.Errorf("the error tells a secret: %v", err)
			}
			if !strings.HasPrefix(err.Error(), "htpasswd file "+os.TempDir()) {
				t.Errorf("the error lacks the path: %v", err)
			}
		})
	}
}

func TestOpenHtpasswdMissing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none")
	if _, err := OpenHtpasswd(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("got error %v", err)
	}
}

func TestSingleUser(t *testing.T) {
	password := GeneratePassword()
	hash, err := HashPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	users, err := SingleUser("admin", hash)
	if err != nil {
		t.Fatal(err)
	}
	if !verify(t, users, "admin", password) || verify(t, users, "admin", password+"x") || verify(t, users, "root", password) {
		t.Error("the wrong ones get in")
	}
	for name, hash := range map[string]string{"admin": password, "ad:min": hash, "": hash} {
		if users, err := SingleUser(name, hash); err == nil || users != nil {
			t.Errorf("user %q: got %v, %v", name, users, err)
		}
	}
}

func TestGeneratePassword(t *testing.T) {
	seen := make(map[string]bool)
	for range 100 {
		p := GeneratePassword()
		if len(p) != 20 || strings.Trim(p, "abcdefghijklmnopqrstuvwxyz234567") != "" || seen[p] {
			t.Errorf("got %q", p)
		}
		seen[p] = true
	}
}

func TestHashPassword(t *testing.T) {
	for _, test := range []struct {
		name    string
		length  int
		cost    int
		message string
	}{
		{"longest", 72, bcrypt.MinCost, ""},
		{"too long", 73, bcrypt.MinCost, "has 73 bytes, and bcrypt takes no more than 72"},
		{"empty", 0, bcrypt.MinCost, "the password is empty"},
		{"cost too low", 8, 3, "cost 3 is not between 4 and 17"},
		{"cost too high", 8, 18, "cost 18 is not between 4 and 17"},
	} {
		t.Run(test.name, func(t *testing.T) {
			hash, err := HashPassword([]byte(strings.Repeat("p", test.length)), test.cost)
			if test.message != "" {
				if err == nil || !strings.Contains(err.Error(), test.message) {
					t.Errorf("got error %v", err)
				}
				return
			}
			if _, checked := checkHash(hash); err != nil || checked != nil {
				t.Errorf("got %v, %v", err, checked)
			}
		})
	}
}

func FuzzParseHtpasswd(f *testing.F) {
	for _, seed := range []string{"", "a:" + hashA, "# c\r\na:" + hashB + "\nb:" + hashY, "a:b:c", "\ufeffa:" + hashLong, "a:" + hashA + "\na:" + hashA} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		users, err := ParseHtpasswd(data)
		if (err == nil) != (users != nil) {
			t.Fatalf("got %v, %v", users, err)
		}
		if err != nil {
			return
		}
		for name, hash := range users.hashes {
			if !validName(name) {
				t.Errorf("user %q", name)
			}
			cost, err := bcrypt.Cost(hash)
			if err != nil || cost > MaxCost || len(hash) != 60 {
				t.Errorf("user %q: hash of %d bytes and cost %d: %v", name, len(hash), cost, err)
			}
			if highest, _ := bcrypt.Cost(users.costliest); highest < cost {
				t.Errorf("cost %d is above the highest, %d", cost, highest)
			}
			if users.generation(name) == "" {
				t.Errorf("user %q has no generation", name)
			}
		}
		if users.hashes[""] != nil {
			t.Error("a user without a name")
		}
	})
}
