// Package clients tests the registry with the programs that people push, pull and build with, on a network, each of them
// real, as are the registry and the line that makes a machine trust it. What each of them does is in docs/clients.md.
//
// All of the package is tests. They run on machines of their own, each a set of Linux namespaces with a network, an /etc and
// a /run, because on loopback docker and containerd don't verify certificates and BuildKit speaks plain HTTP, and because
// the line is run as a person would, as root, where it must not change the machine that the tests run on. Whatever a test
// starts and makes there goes with its machine, also when the test is killed; only the empty control groups of a container
// would be left.
//
// They need root, the Go toolchain, and the programs, which `make requirements` and `make tools` bring. Where something is
// missing they are skipped, except where CI is set: there a test that can't run is a failure.
package clients
