// Package conformance tests the registry from outside: it builds the real program, runs it as a process, and talks to it
// with the official conformance suite of the OCI distribution spec, with the clients that people use, and with a client
// that kills it in the middle of what it does.
//
// All of the package is tests; `go test ./conformance` runs them. They need the Go toolchain (to build the program, and
// from the tools module the suite and the clients) and Linux. Those that need root are skipped without it, except where CI
// is set: there a test that can't run is a failure.
package conformance
