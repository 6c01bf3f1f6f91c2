package sock_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"syscall"

	"github.com/onewake/onewake/perms"
	"github.com/onewake/onewake/sock"
)

func ExampleParse() {
	for _, s := range []string{
		"unix:/var/run/hello/hello.sock",
		"tcp6:[::1]:080",
		"/tmp/sock",
		"unix:@hello",
	} {
		a, err := sock.Parse(s)
		if err != nil {
			fmt.Println(errors.Is(err, sock.ErrBadAddr), err)
			continue
		}
		fmt.Println(a.Network, a.Address)
	}
	// Output:
	// unix /var/run/hello/hello.sock
	// tcp6 [::1]:80
	// true address "/tmp/sock": a path needs its network, use unix:/tmp/sock
	// true address "unix:@hello": no permissions guard an abstract socket, use unix:/path
}

// What a start would find, as for a program's -check flag.
func ExampleCheck() {
	dir, err := os.MkdirTemp("", "ow")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	spec, err := perms.Parse("0660", "", "")
	if err != nil {
		log.Fatal(err)
	}
	a := sock.Addr{Network: sock.Unix, Address: dir + "/hello.sock"}

	_, err = sock.Check(a, spec)
	fmt.Println("at first:", err)

	if err := os.Chmod(dir, 0o777); err != nil {
		log.Fatal(err)
	}
	_, err = sock.Check(a, spec)
	fmt.Println("unsafe directory:", errors.Is(err, sock.ErrUnsafeDir))
	// Output:
	// at first: <nil>
	// unsafe directory: true
}

// An HTTP handler that knows who asks.
func ExamplePeerCred() {
	type peer struct{}
	srv := &http.Server{
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			cred, err := sock.PeerCred(c.(syscall.Conn))
			if err != nil {
				return ctx
			}
			return context.WithValue(ctx, peer{}, cred)
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			cred, ok := r.Context().Value(peer{}).(sock.Cred)
			if !ok || cred.UID != os.Geteuid() {
				http.Error(w, "not for you", http.StatusForbidden)
				return
			}
			fmt.Fprintln(w, "hello, my user")
		}),
	}

	dir, err := os.MkdirTemp("", "ow")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := dir + "/hello.sock"
	spec, err := perms.Parse("0666", "", "")
	if err != nil {
		log.Fatal(err)
	}
	l, err := sock.Listen(sock.Addr{Network: sock.Unix, Address: path}, spec)
	if err != nil {
		log.Fatal(err)
	}
	go srv.Serve(l)
	defer srv.Close()
	fmt.Print(get(path, "/"))
	// Output: hello, my user
}
