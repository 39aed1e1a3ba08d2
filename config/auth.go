package config

import "time"

// The values of Auth.Method.
const (
	AuthInitial  = ""         // one user, admin, with Auth.InitialPassword or a generated password
	AuthHTPasswd = "htpasswd" // the users of Auth.HTPasswd.Path
	AuthToken    = "token"    // whoever has a token of the server in Auth.Token
	AuthNone     = "none"     // everybody may do everything
)

// Auth says who may use the registry.
type Auth struct {
	// Method is AuthInitial, AuthHTPasswd, AuthToken or AuthNone.
	Method   string   `yaml:"-" choice:"htpasswd token none"`
	HTPasswd HTPasswd `yaml:"htpasswd"`
	Token    Token    `yaml:"token"`
	// InitialPassword is that of the user admin, who is the only one without another method. It counts at the first start: later
	// `registry user passwd admin` changes it. Empty means that one is generated.
	InitialPassword Secret `yaml:"initialpassword,omitempty"`
	Tokens          Tokens `yaml:"tokens"`
}

// MarshalYAML leaves out the methods that are not in use.
func (a Auth) MarshalYAML() (any, error) {
	switch a.Method {
	case AuthNone:
		return AuthNone, nil
	case AuthToken:
		return map[string]any{AuthToken: a.Token}, nil
	case AuthHTPasswd:
		return map[string]any{AuthHTPasswd: a.HTPasswd, "tokens": a.Tokens}, nil
	}
	return map[string]any{"initialpassword": a.InitialPassword, "tokens": a.Tokens}, nil
}

// HTPasswd is a file of users and bcrypt hashes.
type HTPasswd struct {
	// Realm is what clients are told that the password is for.
	Realm string `yaml:"realm"`
	// Path is the file. A change of it counts at once.
	Path string `yaml:"path"`
}

// Token is another server that makes tokens, whose scopes alone say what their bearers may do.
type Token struct {
	// Realm is the server's URL. With AutoRedirect it is AutoRedirectPath on the host that the client used.
	Realm string `yaml:"realm"`
	// Service is whom a token has to be for: its audience.
	Service string `yaml:"service"`
	// Issuer is whom a token has to be from.
	Issuer string `yaml:"issuer"`
	// RootCertBundle is a PEM file with certificates of the server's keys. It or JWKS is set.
	RootCertBundle string `yaml:"rootcertbundle,omitempty"`
	// JWKS is a file with the server's keys in the format of that name.
	JWKS string `yaml:"jwks,omitempty"`
	// AutoRedirect is for a server beside the registry, under the same name.
	AutoRedirect bool `yaml:"autoredirect,omitempty"`
	// AutoRedirectPath is the server's path then; /auth/token when it is empty.
	AutoRedirectPath string `yaml:"autoredirectpath,omitempty"`
	// SigningAlgorithms are those that tokens may be signed by; empty means all but those with a shared secret.
	SigningAlgorithms []string `yaml:"signingalgorithms,omitempty"`
}

// Tokens are those that the registry makes itself.
type Tokens struct {
	// Refresh lets clients log in once and keep a token instead of the password.
	Refresh bool `yaml:"refresh,omitempty"`
	// Lifetime is how long a token is good for, at least a minute.
	Lifetime time.Duration `yaml:"lifetime"`
	// Key is the PEM file with the keys that sign; empty means one that the registry makes in its data directory.
	Key string `yaml:"key,omitempty"`
}

// AccessRule allows Actions to Users and Groups, and Anonymous to everybody, on Repositories.
type AccessRule struct {
	// Repositories are patterns.
	Repositories []string `yaml:"repositories"`
	// Users are names of users.
	Users []string `yaml:"users,omitempty"`
	// Groups are names of Groups.
	Groups []string `yaml:"groups,omitempty"`
	// Actions are what they may do: pull, push (which includes pull) and delete, or "*" for all.
	Actions []string `yaml:"actions,omitempty"`
	// Anonymous are the actions that need no login.
	Anonymous []string `yaml:"anonymous,omitempty"`
}

// Audit says where the records of logins, denials and changes go.
type Audit struct {
	// Output is stdout, stderr or the path of a file. Empty means nowhere.
	Output string `yaml:"output,omitempty"`
}

// Admin is about how commands such as gc, user and fsck act on the running server.
type Admin struct {
	// Socket is the path of a socket, which belongs to one registry; whoever may open it may do everything. Empty means admin.sock in the
	// data directory, where its file system can hold sockets: exFAT and SMB can't.
	Socket string `yaml:"socket,omitempty"`
}
