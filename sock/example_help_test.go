package sock_test

import (
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
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/sandbox"
	"github.com/onewake/onewake/sock"
)

func init() { sock.Roles["server"] = server }

// server is a program that serves as the example does, and knows no more of
// sockets than that. SIGTERM stops it.
func server(path, _ string) error {
	srv := &http.Server{
		Handler: handler(path),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			cred, err := sock.PeerCred(c.(syscall.Conn))
			return context.WithValue(ctx, peerKey{}, fmt.Sprint(cred.UID, " ", cred.PID, " ", err))
		},
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	stopped := make(chan error, 1)
	go func() {
		<-term
		stopped <- srv.Shutdown(context.Background())
	}()
	begun := time.Now()
	err := serve(srv, path)
	switch {
	case errors.Is(err, http.ErrServerClosed):
		return <-stopped
	case errors.Is(err, sock.ErrInUse):
		fmt.Println("in use after", time.Since(begun).Milliseconds())
		return nil
	}
	return err
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
	mux.HandleFunc("/powers", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "system", runtime.GOOS, "confined", sandbox.Entered())
		powers(w, path)
	})
	return mux
}

// powers tries what somebody would who has broken in, and writes a line of each
// try that worked.
func powers(w io.Writer, path string) {
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
			fmt.Fprintln(w, "made a file by way of descriptor", fd)
		}
		if err := unix.Fchmodat(fd, filepath.Base(path), 0o666, unix.AT_SYMLINK_NOFOLLOW); err == nil {
			fmt.Fprintln(w, "changed the mode by way of descriptor", fd)
		}
		if _, err := unix.ReadDirent(fd, make([]byte, 8192)); err == nil {
			fmt.Fprintln(w, "read a directory by way of descriptor", fd)
		}
	}
}

// startServer starts server in another process. stop ends it, and returns when
// it has ended.
func startServer(path string) (stop func()) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{"GORACE=atexit_sleep_ms=0", "SOCK_TEST_ROLE=server", "SOCK_TEST_PATH=" + path}
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Start(); err != nil {
		log.Fatal(err)
	}
	return func() {
		cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			log.Print(err)
		}
	}
}

// get asks the server at path, as soon as there is one.
func get(path, url string) string {
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			for tries := 0; ; tries++ {
				c, err := net.Dial("unix", path)
				if err == nil || tries > 500 {
					return c, err
				}
				time.Sleep(10 * time.Millisecond)
			}
		},
	}}
	resp, err := client.Get("http://unix" + url)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		log.Fatal(err)
	}
	return strings.TrimRight(string(body), "\n") + "\n"
}
