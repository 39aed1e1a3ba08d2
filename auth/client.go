package auth

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"berth/auth/access"
	"berth/auth/token"
)

// Refusal says how to refuse a request.
type Refusal struct {
	// Status is 401, 403, 429 or 503.
	Status int
	// Message is for the person at the client.
	Message string
	// Challenge is the WWW-Authenticate header of a 401.
	Challenge string
	// RetryAfter is when to try again, of a 429 and a 503.
	RetryAfter time.Duration
}

// Client is who sent a request. It is good for that request.
type Client struct {
	gate *Gate
	user string // empty for strangers and robots
	// generation is that of the user's entry that the client showed the credential for.
	generation string
	// robot is set for robots.
	robot *Robot
	// bearer is what the request's token says, nil for a request without one.
	bearer *token.Claims
	rules  *access.Rules
}

// Name is what logs call the client: a user's name, robot:NAME, or nothing for a client that is not known.
func (c *Client) Name() string {
	if c.robot != nil {
		return "robot:" + c.robot.Name
	}
	return c.user
}

// Known reports whether the client showed a credential, be it only a token for strangers.
func (c *Client) Known() bool { return c.Name() != "" || c.bearer != nil }

// May reports whether the client may take one action on a repository.
func (c *Client) May(repository string, action access.Actions) bool {
	return c.entitled(repository).Has(action) && c.narrowed(repository).Has(action)
}

// entitled returns what the client might do with the best of tokens.
func (c *Client) entitled(repository string) access.Actions {
	switch {
	case c.gate.external != nil:
		return access.All // its tokens alone decide
	case c.robot != nil:
		return c.robot.allowed(repository) | c.rules.Allowed("", repository) // and what everybody may do
	}
	return c.rules.Allowed(c.user, repository)
}

// narrowed returns what the client's token is good for. A password is good for everything.
func (c *Client) narrowed(repository string) access.Actions {
	switch {
	case c.bearer != nil:
		return scoped(c.bearer.Access, repository)
	case c.gate.external != nil:
		return access.None
	}
	return access.All
}

// scoped returns what scopes say of a repository. Actions that are unknown count for nothing.
func scoped(scopes []token.Scope, repository string) (set access.Actions) {
	for _, s := range scopes {
		if s.Type != token.TypeRepository || s.Name != repository {
			continue
		}
		for _, name := range s.Actions {
			if one, err := access.ParseActions([]string{name}); err == nil {
				set |= one
			}
		}
	}
	return set
}

// MayList reports whether the client may ask for the list of repositories. Which of them it gets to see, Sees says.
func (c *Client) MayList() bool {
	switch {
	case c.bearer != nil:
		return slices.ContainsFunc(c.bearer.Access, func(s token.Scope) bool {
			return s.Type == token.TypeRegistry && s.Name == "catalog" && slices.Contains(s.Actions, "*")
		})
	case c.gate.external != nil:
		return false
	}
	return c.Name() != "" || c.rules.Anonymous()
}

// Sees reports whether a repository is in the client's list: where it may pull. Tokens are for repositories by name, and do
// not matter here; the token of another server that is good for the list is good for all of it.
func (c *Client) Sees(repository string) bool { return c.entitled(repository).Has(access.Pull) }

// RefuseBase says how to answer a client that showed no credential where one is wanted.
func (c *Client) RefuseBase(r *http.Request) Refusal {
	return Refusal{
		Status:    http.StatusUnauthorized,
		Message:   c.gate.pleaseLogIn(r),
		Challenge: c.gate.challenge(r, challenge{}),
	}
}

// RefuseList says how to answer a client that may not list repositories.
func (c *Client) RefuseList(r *http.Request) Refusal {
	return c.refuseScope(r, token.Scope{Type: token.TypeRegistry, Name: "catalog", Actions: []string{"*"}}, "list the repositories")
}

// Refuse says how to answer a client that May not take an action on a repository. One whose token is too narrow, or that is
// not known, is told to get a better one; others that nothing can be done.
func (c *Client) Refuse(r *http.Request, repository string, action access.Actions) Refusal {
	what := fmt.Sprintf("%s %s %s", verb(action), preposition(action), repository)
	wider := c.bearer != nil && c.entitled(repository).Has(action)
	if c.Name() != "" && !wider {
		return Refusal{Status: http.StatusForbidden, Message: c.denial(repository, action, what)}
	}
	actions := action.Names()
	if action == access.Push {
		actions = []string{"pull", "push"}
	}
	return c.refuseScope(r, token.Scope{Type: token.TypeRepository, Name: repository, Actions: actions}, what)
}

func verb(action access.Actions) string { return action.Names()[0] }

func preposition(action access.Actions) string {
	if action == access.Push {
		return "to"
	}
	return "from"
}

// denial says what is missing, and to whom to turn.
func (c *Client) denial(repository string, action access.Actions, what string) string {
	has := "nothing is allowed there"
	if may := c.entitled(repository).Names(); len(may) > 0 {
		has = "allowed is " + strings.Join(may, " and ")
	}
	if c.robot != nil {
		return fmt.Sprintf("the access token %s may not %s: %s; one for that is made with registry token create", c.robot.Name, what, has)
	}
	return fmt.Sprintf("%s may not %s: no access rule allows %s, %s; ask whoever runs this registry", c.user, what, verb(action), has)
}

// refuseScope asks for a credential, or a better one.
func (c *Client) refuseScope(r *http.Request, scope token.Scope, what string) Refusal {
	refusal := Refusal{Status: http.StatusUnauthorized, Message: c.gate.pleaseLogIn(r) + ", to " + what}
	wanted := challenge{scope: scope}
	if c.bearer != nil {
		if c.Name() != "" {
			refusal.Message = "the token does not allow to " + what
		}
		wanted.failure, wanted.description = "insufficient_scope", refusal.Message
	}
	refusal.Challenge = c.gate.challenge(r, wanted)
	return refusal
}
