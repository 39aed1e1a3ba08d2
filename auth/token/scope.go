package token

import (
	"slices"
	"strings"
)

const (
	// maxScopes and maxScope bound what one request may ask for.
	maxScopes = 100
	maxScope  = 1024 // bytes
)

// knownActions are those that a scope may have.
var knownActions = [...]string{"pull", "push", "delete", "*"}

// The types of Scope.
const (
	TypeRepository = "repository"
	TypeRegistry   = "registry" // of which there is the name catalog, with the action *
)

// Scope is actions on something, as a claim of a token has it (Docker token specification, "Access Token Claims").
type Scope struct {
	Type    string   `json:"type"`
	Name    string   `json:"name"`
	Actions []string `json:"actions"`
}

// String returns the scope as clients ask for it: repository:team/app:pull,push.
func (s Scope) String() string {
	return s.Type + ":" + s.Name + ":" + strings.Join(s.Actions, ",")
}

// ParseScopes reads the scope parameters of a request, each of which may hold several, separated by spaces. Scopes for the
// same thing become one. What can't be read is left out, as are actions that there are not, and what goes beyond the
// bounds: a client gets a token for less than it asked for, never an error (Docker token specification, "Requesting a
// Token").
func ParseScopes(parameters []string) []Scope {
	var scopes []Scope
	read := 0
	for _, parameter := range parameters {
		for text := range strings.FieldsSeq(parameter) {
			if read++; read > maxScopes {
				return scopes
			}
			if s, ok := parseScope(text); ok {
				scopes = addScope(scopes, s)
			}
		}
	}
	return scopes
}

// parseScope reads TYPE:NAME:ACTIONS. A name may have colons. A type may have a class in parentheses, which was once for
// plugins and tells nothing.
func parseScope(text string) (Scope, bool) {
	kind, rest, ok := strings.Cut(text, ":")
	end := strings.LastIndexByte(rest, ':')
	if !ok || end <= 0 || len(text) > maxScope {
		return Scope{}, false
	}
	kind, _, _ = strings.Cut(kind, "(")
	s := Scope{Type: kind, Name: rest[:end]}
	for action := range strings.SplitSeq(rest[end+1:], ",") {
		if slices.Contains(knownActions[:], action) && !slices.Contains(s.Actions, action) {
			s.Actions = append(s.Actions, action)
		}
	}
	return s, kind != "" && len(s.Actions) > 0
}

func addScope(scopes []Scope, s Scope) []Scope {
	for i, known := range scopes {
		if known.Type != s.Type || known.Name != s.Name {
			continue
		}
		for _, action := range s.Actions {
			if !slices.Contains(known.Actions, action) {
				scopes[i].Actions = append(scopes[i].Actions, action)
			}
		}
		return scopes
	}
	return append(scopes, s)
}
