package sock_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"

	"github.com/onewake/onewake/perms"
	"github.com/onewake/onewake/sandbox"
	"github.com/onewake/onewake/sock"
)

// serve is all that it takes to serve on a guarded, sandboxed Unix socket. What
// the handlers need of files, names and time zones must be there by now: from
// Enter on, on FreeBSD, whoever breaks in can neither open a file nor connect to
// anything.
func serve(ctx context.Context, srv *http.Server, path string) error {
	spec := perms.Spec{Mode: perms.Set(0o660)}
	l, err := sock.Listen(ctx, sock.Addr{Network: sock.Unix, Address: path}, spec)
	if err != nil {
		return err
	}
	defer l.Close()
	for _, err := range []error{l.Limit(), sandbox.Enter()} {
		if err != nil && !errors.Is(err, sandbox.ErrUnsupported) {
			return err
		}
	}
	return srv.Serve(l)
}

// A web server on a guarded, sandboxed Unix socket. After a crash it starts
// again, a second one stays away, and a stop leaves nothing behind.
func Example() {
	dir, err := os.MkdirTemp("", "ow")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := dir + "/hello.sock"

	// A confined process cannot leave the sandbox, nor connect to itself: the
	// server is another process, which calls serve.
	stop := startExample(path)
	fmt.Print(get(path, "/hello"))
	fi, err := os.Lstat(path)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(fi.Mode())

	stop() // by SIGTERM, upon which it calls srv.Shutdown
	_, err = os.Lstat(path)
	fmt.Println("gone:", errors.Is(err, os.ErrNotExist))
	// Output:
	// hello
	// Srw-rw----
	// gone: true
}
