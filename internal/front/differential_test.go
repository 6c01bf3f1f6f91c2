//go:build linux || freebsd

package front

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
	"net"
	"net/http"
	nethttpcgi "net/http/cgi"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/internal/cgi"
	"github.com/onewake/onewake/internal/cli"
	"github.com/onewake/onewake/internal/control"
	"github.com/onewake/onewake/internal/process"
)

// TestDifferential runs the same CGI programs behind onewake and behind
// net/http/cgi, sends both the same bytes and compares the answers. Each
// difference must be in the table with its reason, and each entry of the table
// must occur.
//
// Whether an answer has Content-Length or chunks depends on timing, so it is
// compared only if the program sends a length.
func TestDifferential(t *testing.T) {
	d := newPair(t)
	for _, tt := range differential {
		t.Run(tt.name, func(t *testing.T) {
			d.script.Store(&tt.script)
			raw := tt.request
			if raw == "" {
				raw = get("/app/x")
			}
			ours, theirs := d.ask(t, d.ours, raw), d.ask(t, d.theirs, raw)
			// The access record is about the client's request, not about a
			// redirect.
			if r := <-d.done; !strings.HasPrefix(raw, r.Method+" "+r.Target+" ") {
				t.Errorf("the record is about %s %s", r.Method, r.Target)
			}
			listed := make(map[string]difference)
			for _, x := range tt.differs {
				listed[x.what] = x
			}
			if ours["cut"]+theirs["cut"] != "" { // it may have any length
				delete(ours, "body")
				delete(theirs, "body")
				delete(listed, "body")
			}
			for what := range union(ours, theirs) {
				a, b := ours[what], theirs[what]
				x, ok := listed[what]
				delete(listed, what)
				switch {
				case a == b && ok:
					t.Errorf("%s: both have %q", what, a)
				case a != b && !ok:
					t.Errorf("%s: %q, net/http/cgi %q", what, a, b)
				case ok && (!matches(a, x.ours) || !matches(b, x.theirs)):
					t.Errorf("%s: %q, net/http/cgi %q; listed are %q, %q", what, a, b, x.ours, x.theirs)
				}
			}
			for what := range listed {
				t.Errorf("%s is listed and does not occur", what)
			}
		})
	}
}

// matches compares s with want; "*" stands for any text but none.
func matches(s, want string) bool { return s == want || want == "*" && s != "" }

func union(a, b map[string]string) map[string]string {
	u := maps.Clone(a)
	maps.Copy(u, b)
	return u
}

// pair is two servers that run the same script.
type pair struct {
	script       atomic.Pointer[string]
	ours, theirs string // sockets
	done         chan *cgi.Request
}

func newPair(t *testing.T) *pair {
	d := new(pair)
	env := []string{"PATH=" + os.Getenv("PATH")}
	cfg := config()
	cfg.CGI, cfg.ScriptName, cfg.Timeout, cfg.MaxProcs, cfg.Env = true, "/app", patience, 4, env
	client := newMonitor(t, cfg, func(string) (*process.Command, error) {
		return &process.Command{Path: "/bin/sh", Args: []string{"sh", "-c", *d.script.Load()}, Dir: "/", Env: env}, nil
	})
	gateway := cgi.New(cfg, client, slog.New(slog.DiscardHandler))
	f := start(t, cfg, "unix", gateway.Serve)
	t.Cleanup(gateway.Wait)
	d.ours, d.done = f.addr.String(), f.done

	ln, err := net.Listen("unix", filepath.Join(filepath.Dir(d.ours), "t"))
	if err != nil {
		t.Fatal(err)
	}
	silent := log.New(io.Discard, "", 0)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var c nethttpcgi.Handler
		c = nethttpcgi.Handler{Path: "/bin/sh", Args: []string{"-c", *d.script.Load()}, Root: "/app", Dir: "/", Logger: silent, Stderr: io.Discard, PathLocationHandler: &c}
		c.ServeHTTP(w, r)
	})
	s := httptest.NewUnstartedServer(h)
	s.Listener.Close()
	s.Listener, s.Config.ErrorLog = ln, silent
	s.Start()
	t.Cleanup(s.Close)
	d.theirs = ln.Addr().String()
	return d
}

// newMonitor starts the monitor's part in this process.
func newMonitor(t *testing.T, cfg *cli.Config, command func(string) (*process.Command, error)) *control.Client {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	var loop *process.Loop
	var peer *control.Peer
	ready, over := make(chan error), make(chan bool)
	go func() {
		runtime.LockOSThread()
		err := process.DefaultSignals()
		if err == nil {
			loop, err = process.NewLoop()
		}
		var sup *process.Supervisor
		if err == nil {
			sup, err = process.NewSupervisor(loop, quiet, process.Options{Max: cfg.MaxProcs, Timeout: patience, KillAfter: time.Second})
		}
		if err == nil {
			peer, err = control.NewPeer(pair[0], loop, sup, control.PeerOptions{
				Max: cfg.MaxProcs, MaxSpools: cfg.MaxProcs, SpoolDir: os.TempDir(), Command: command, Filter: cfg.Filter(), Log: quiet,
			})
		}
		ready <- err
		if err == nil {
			loop.Run()
		}
		close(over)
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	unix.SetNonblock(pair[1], true)
	c, err := control.NewClient(os.NewFile(uintptr(pair[1]), "control"))
	if err != nil {
		t.Fatal(err)
	}
	go c.Run()
	t.Cleanup(func() {
		loop.Post(func() { peer.Close(); loop.Stop() })
		<-over
	})
	return c
}

// ask sends a request and returns what is compared: "status", "field NAME",
// "body", "cut" and, if the body has lines NAME=VALUE after "env", "env NAME".
func (d *pair) ask(t *testing.T, socket, raw string) map[string]string {
	t.Helper()
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	go io.WriteString(c, raw)
	method, _, _ := strings.Cut(raw, " ")
	a := make(map[string]string)
	r, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		a["cut"] = "no answer"
		return a
	case err != nil:
		a["malformed"] = "yes"
		return a
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		a["cut"] = "in the body"
	}
	a["status"] = strconv.Itoa(r.StatusCode)
	said := strings.Contains(*d.script.Load(), "Content-Length")
	for name, values := range r.Header {
		if name != "Date" && (name != "Content-Length" || said) {
			a["field "+name] = strings.Join(values, " | ")
		}
	}
	body := string(b)
	if vars, ok := strings.CutPrefix(body, "env\n"); ok {
		for v := range strings.Lines(vars) {
			name, value, _ := strings.Cut(strings.TrimSuffix(v, "\n"), "=")
			a["env "+name] = value
		}
		return a
	}
	if len(body) > 60 {
		body = fmt.Sprintf("%.30q... (%d bytes)", body, len(body))
	}
	a["body"] = body
	return a
}

// difference is a difference between the answers of onewake and net/http/cgi.
type difference struct{ what, ours, theirs, why string }
