package auth

import (
	"testing"

	"berth/auth/access"
)

// BenchmarkAdmit is what a gate adds to each request with a credential that was good before.
func BenchmarkAdmit(b *testing.B) {
	g := openGate(b, Config{Rules: rules(b, true)})
	password := basic("ann", "ann")
	token := bearer(g.fetch(b, basic("ann", "ann"), "repository:team/x:pull"))
	for name, r := range map[string]func() bool{
		"Basic": func() bool {
			c, refusal := g.Admit(password, Origin{Remote: "192.0.2.1"})
			return refusal == nil && c.May("team/x", access.Pull)
		},
		"Bearer": func() bool {
			c, refusal := g.Admit(token, Origin{Remote: "192.0.2.1"})
			return refusal == nil && c.May("team/x", access.Pull)
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !r() {
					b.Fatal("refused")
				}
			}
		})
	}
}
