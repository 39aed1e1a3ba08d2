// Package auth is the registry's gate: it says who sends a request, and what that client may do.
//
// A client is a user of an htpasswd file or a robot, by password (RFC 7617) or by a token that the registry made for it
// (Docker token specification); or somebody with the token of another server; or nobody known. What users and strangers
// may do is decided by the rules of package access, what a robot may do was said when it was made, and a token narrows that
// further.
//
// It guarantees that a user who is removed, a password that is changed, a robot that is revoked and a rule that is taken away
// count from the next request on, once the file or the store says so, whatever tokens are out. A wrong password and an
// unknown user take the same time where all hashes have the same cost. Passwords are kept nowhere, not even their plain
// hashes; neither they nor hashes or tokens get into errors or logs. Wrong passwords cost at most a third of the processors (a
// sixth, where there are two or more), and each user at each address has few of them; a credential that was good before is
// not affected by that, except after a restart. As everywhere with bcrypt, only the first 72 bytes of a password count.
//
// It does not know what is in the registry, so that its answers tell nothing of that.
//
// Files with something wrong in them are refused as a whole: whoever wrote them expected it to count. At the start that is an
// error; later, the log says so and what was there before stays.
package auth
