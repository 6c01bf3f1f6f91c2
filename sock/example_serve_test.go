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

// serve serves on a Unix socket and enters the sandbox. The handlers must have
// opened all files and looked up all names and time zones before: after Enter, on
// FreeBSD, the process can neither open a file nor connect.
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

// A web server in a sandbox, on a Unix socket. It can be started again after a
// crash, and not twice at once, and its socket file is removed when it stops.
func Example() {
	dir, err := os.MkdirTemp("", "ow")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := dir + "/hello.sock"

	// A process can neither leave the sandbox nor connect in it, so another
	// process calls serve.
	stop := startExample(path)
	fmt.Print(get(path, "/hello"))
	fi, err := os.Lstat(path)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(fi.Mode())

	stop() // by SIGTERM; the server calls srv.Shutdown
	_, err = os.Lstat(path)
	fmt.Println("removed:", errors.Is(err, os.ErrNotExist))
	// Output:
	// hello
	// Srw-rw----
	// removed: true
}
