package sock_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/perms"
	"github.com/onewake/onewake/sandbox"
	"github.com/onewake/onewake/sock"
)

func init() {
	sock.Roles["example"] = func(ctx context.Context, path string) error {
		return untilStopped(path, func(srv *http.Server) error { return serve(ctx, srv, path) })
	}
	sock.Roles["server"] = func(ctx context.Context, path string) error {
		return untilStopped(path, func(srv *http.Server) error { return serveForTest(ctx, srv, path) })
	}
}

// serveForTest is serve with a longer LockWait.
func serveForTest(ctx context.Context, srv *http.Server, path string) error {
	c := sock.Config{Perms: perms.Spec{Mode: perms.Set(0o660)}, LockWait: time.Hour}
	l, err := c.Listen(ctx, sock.Addr{Network: sock.Unix, Address: path})
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

// untilStopped serves until SIGTERM.
func untilStopped(path string, serve func(*http.Server) error) error {
	srv := &http.Server{
		Handler: handler(path),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			cred, err := perms.PeerCred(c.(syscall.Conn))
			return context.WithValue(ctx, peerKey{}, fmt.Sprint(cred.UID, " ", err))
		},
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	stopped := make(chan error, 1)
	go func() {
		<-term
		stopped <- srv.Shutdown(context.Background())
	}()
	switch err := serve(srv); {
	case errors.Is(err, http.ErrServerClosed):
		return <-stopped
	case errors.Is(err, sock.ErrInUse):
		fmt.Println("in use")
		return nil
	default:
		return err
	}
}

type peerKey struct{}

func handler(path string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/hello", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "hello") })
	mux.HandleFunc("/pid", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, os.Getpid()) })
	mux.HandleFunc("/peer", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Context().Value(peerKey{})) })
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		usr1 := make(chan os.Signal, 1)
		signal.Notify(usr1, syscall.SIGUSR1)
		fmt.Fprint(w, "begun ")
		http.NewResponseController(w).Flush()
		<-usr1
		fmt.Fprint(w, os.Getpid())
	})
	mux.HandleFunc("/rights", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "system", runtime.GOOS)
		tryRights(w, path)
	})
	return mux
}

// tryRights tries what an attacker would, and writes a line for each attempt that
// succeeds.
func tryRights(w io.Writer, path string) {
	if f, err := os.Open(filepath.Dir(path)); err == nil {
		f.Close()
		fmt.Fprintln(w, "opened the directory")
	}
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		fmt.Fprintln(w, "connected")
	}
	for fd := range 100 {
		if n, err := unix.Openat(fd, "made", unix.O_CREAT|unix.O_RDWR, 0o600); err == nil {
			unix.Close(n)
			fmt.Fprintln(w, "created a file with descriptor", fd)
		}
		if err := unix.Fchmodat(fd, filepath.Base(path), 0o666, unix.AT_SYMLINK_NOFOLLOW); err == nil {
			fmt.Fprintln(w, "changed the mode with descriptor", fd)
		}
		if _, err := unix.ReadDirent(fd, make([]byte, 8192)); err == nil {
			fmt.Fprintln(w, "read a directory with descriptor", fd)
		}
	}
}

// startExample starts the example in another process and waits until it listens.
// stop stops it and waits for its exit.
func startExample(path string) (stop func()) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{"GORACE=atexit_sleep_ms=0", "SOCK_TEST_ROLE=example", "SOCK_TEST_PATH=" + path, "SOCK_TEST_REPORT=listening"}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		log.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		log.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		log.Print("no output from the server: ", err)
	}
	return func() {
		cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			log.Print(err)
		}
	}
}

// get sends a request to the server at path.
func get(path, url string) string {
	body, err := sock.Get(path, url)
	if err != nil {
		log.Fatal(err)
	}
	return body
}
