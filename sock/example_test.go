package sock_test

import (
	"errors"
	"fmt"
	"log"
	"net/http"

	"github.com/onewake/onewake/perms"
	"github.com/onewake/onewake/sandbox"
	"github.com/onewake/onewake/sock"
)

// A web application on a guarded, sandboxed Unix socket. From Enter on, on
// FreeBSD, whoever breaks into it can neither open a file nor connect to
// anything.
func Example() {
	spec, err := perms.Parse("0660", "", "www")
	if err != nil {
		log.Fatal(err)
	}
	l, err := sock.Listen(sock.Addr{Network: sock.Unix, Address: "/var/run/hello/hello.sock"}, spec)
	if err != nil {
		log.Fatal(err)
	}
	if err := errors.Join(sandbox.Limit(l.File(), sandbox.Serve), sandbox.Enter()); err != nil && !errors.Is(err, sandbox.ErrUnsupported) {
		log.Fatal(err)
	}
	log.Fatal(http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "hello from", l.Address(), "to", r.RemoteAddr)
	})))
}
