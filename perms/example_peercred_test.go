package perms_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"syscall"

	"github.com/onewake/onewake/perms"
	"github.com/onewake/onewake/sock"
)

// An HTTP handler that serves only its own user.
func ExamplePeerCred() {
	type peer struct{}
	srv := &http.Server{
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			cred, err := perms.PeerCred(c.(syscall.Conn))
			if err != nil {
				return ctx
			}
			return context.WithValue(ctx, peer{}, cred)
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			cred, ok := r.Context().Value(peer{}).(perms.Cred)
			if !ok || cred.UID != os.Geteuid() {
				http.Error(w, "forbidden", http.StatusForbidden)
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
	spec := perms.Spec{Mode: perms.Set(0o666)}
	l, err := sock.Listen(context.Background(), sock.Addr{Network: sock.Unix, Address: path}, spec)
	if err != nil {
		log.Fatal(err)
	}
	go srv.Serve(l)
	defer srv.Close()

	client := http.Client{Transport: &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", path) },
	}}
	resp, err := client.Get("http://unix/")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	io.Copy(os.Stdout, resp.Body)
	// Output: hello, my user
}
