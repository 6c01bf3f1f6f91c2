//go:build freebsd || linux

package e2e

import (
	"encoding/json"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What must always be true of both processes and of the command.

// told is what a command sees of its own surroundings.
type told struct {
	Args    []string
	Env     []string
	Dir     string
	Open    []int  // descriptors
	Block   []bool // whether 0, 1 and 2 are blocking
	Ignored []int  // signals
	Mask    string // of blocked signals, where it can be seen
	PGID    int
	PID     int
	UID     int
	Groups  []int
	Stdin   string
}

// roleTell is a command that tells what it sees.
func roleTell(args []string) int {
	v := told{Args: args, Env: os.Environ(), PGID: syscall.Getpgrp(), PID: os.Getpid(), UID: os.Getuid()}
	v.Dir, _ = os.Getwd()
	v.Groups, _ = os.Getgroups()
	v.Open = inherited
	for fd := range 3 {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		v.Block = append(v.Block, err == nil && flags&unix.O_NONBLOCK == 0)
	}
	v.Ignored, v.Mask = ignoredSignals()
	json.NewEncoder(os.Stdout).Encode(v)
	return 0
}

// inherited are the descriptors that this process was started with, but for
// those that the Go runtime opens itself, which have close-on-exec set.
var inherited = func() (open []int) {
	for fd := range 1024 {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			open = append(open, fd)
		}
	}
	return open
}()

// ask has such a command tell.
func (s *server) ask(target string, fields ...string) (v told) {
	s.t.Helper()
	a := s.get(target, fields...)
	if err := json.Unmarshal([]byte(a.body), &v); err != nil || a.status != 200 {
		s.t.Fatalf("%d, %q: %v", a.status, a.body, err)
	}
	return v
}

// teller is the command line of that command.
func teller(t *testing.T) []string {
	t.Helper()
	path, err := self()
	if err != nil {
		t.Fatal(err)
	}
	return []string{"-env", envRole + "=tell", "--", path}
}

func TestCommandSurroundings(t *testing.T) {
	t.Parallel()
	for _, cred := range users(t) {
		t.Run(userLabel(cred), func(t *testing.T) {
			l := dirty(t)
			l.cred = cred
			l.args = append([]string{"-forwarded", "X-Request-Id", "-env", "GIVEN=one two", "-env", "SHARED", "-dir", "/usr"}, teller(t)...)
			l.args = append(l.args, "two words", `$HOME "x"`, "")
			s := l.start(t)
			v := s.ask("/path/info%20x?a=b&c", "X-Request-Id: r1", "X-Field: 1", "x-field: 2", "X_Field: smuggled", "Proxy: http://evil.example",
				"Cookie: a=1", "Cookie: b=2", "Content-Type: text/x", "Keep-Alive: 1", "Accept: a/b", "Authorization: Basic x",
				"Connection: x-hop", "X-Hop: gone", "User-Agent: it's \"me\"")
			host, _ := os.Hostname()
			want := []string{
				"PATH=/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin",
				"GIVEN=one two", "SHARED=old", envRole + "=tell",
				"GATEWAY_INTERFACE=CGI/1.1", "SERVER_SOFTWARE=onewake/" + testVersion, "SERVER_PROTOCOL=HTTP/1.1",
				"SERVER_NAME=" + host, "SERVER_PORT=0", "REQUEST_METHOD=GET", "REQUEST_URI=/path/info%20x?a=b&c",
				"REQUEST_SCHEME=http", "SCRIPT_NAME=", "PATH_INFO=/path/info x", "QUERY_STRING=a=b&c",
				"REMOTE_ADDR=<unix>", "REMOTE_HOST=<unix>", "CONTENT_TYPE=text/x",
				"HTTP_HOST=example.org", "HTTP_X_FIELD=1, 2", "HTTP_COOKIE=a=1; b=2", "HTTP_ACCEPT=a/b",
				"HTTP_AUTHORIZATION=Basic x", `HTTP_USER_AGENT=it's "me"`, "HTTP_X_REQUEST_ID=r1", "UNIQUE_ID=r1",
			}
			slices.Sort(want)
			slices.Sort(v.Env)
			if !slices.Equal(v.Env, want) {
				t.Errorf("environment\n%s\nwant\n%s", strings.Join(v.Env, "\n"), strings.Join(want, "\n"))
			}
			if !slices.Equal(v.Open, []int{0, 1, 2}) {
				t.Errorf("descriptors %v, want 0, 1, 2", v.Open)
			}
			if !slices.Equal(v.Block, []bool{true, true, true}) {
				t.Errorf("blocking descriptors: %v, want all", v.Block)
			}
			if len(v.Ignored) > 0 || strings.Trim(v.Mask, "0") != "" {
				t.Errorf("ignored signals %v, blocked ones %s, want none", v.Ignored, v.Mask)
			}
			if !slices.Equal(v.Args, []string{"two words", `$HOME "x"`, ""}) {
				t.Errorf("arguments %q", v.Args)
			}
			if v.Dir != "/usr" || v.PGID != v.PID {
				t.Errorf("directory %s, process %d in group %d", v.Dir, v.PID, v.PGID)
			}
			s.stop()
		})
	}
}

// On TCP the bound host and port are the server's name, and peers have
// addresses.
func TestCommandSurroundingsTCP(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ listen, name, remote string }{
		{"tcp4:127.0.0.1:0", "127.0.0.1", "127.0.0.1"},
		{"tcp6:[::1]:0", "[::1]", "::1"},
		{"tcp4:localhost:0", "localhost", "127.0.0.1"},
	} {
		t.Run(tt.listen, func(t *testing.T) {
			s := start(t, append([]string{"-listen", tt.listen}, teller(t)...)...)
			c := dial(t, s.addr)
			c.send("%s", get11("/"))
			var v told
			if err := json.Unmarshal([]byte(c.answer("GET").body), &v); err != nil {
				t.Fatal(err)
			}
			port := s.addr[strings.LastIndexByte(s.addr, ':')+1:]
			local := c.LocalAddr().String()
			for _, want := range []string{
				"SERVER_NAME=" + tt.name, "SERVER_PORT=" + port, "REMOTE_ADDR=" + tt.remote,
				"REMOTE_HOST=" + tt.remote, "REMOTE_PORT=" + local[strings.LastIndexByte(local, ':')+1:],
			} {
				if !slices.Contains(v.Env, want) {
					t.Errorf("no %s in %q", want, v.Env)
				}
			}
			rec := s.await("request")
			if rec["peer"] != tt.remote || rec["uid"] != "" {
				t.Errorf("access record %v", rec)
			}
			s.stop()
		})
	}
}

// Memory and descriptors are flat: after many requests both processes hold what
// they held after the first thousand.
func TestFlat(t *testing.T) {
	needRoot(t, "it counts the descriptors of processes that are closed to their own user")
	for _, tt := range []struct {
		name    string
		command []string
		many    int
	}{
		{"test page", nil, 20000},
		{"command", []string{"--", trueProgram}, 20000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if raceEnabled {
				tt.many = 4000 // the race detector's time and memory are not the subject
			}
			s := start(t, append([]string{"-access-log=false"}, tt.command...)...)
			began := time.Now()
			hammer(t, s, 1000)
			type held struct {
				memory      int
				descriptors []string
			}
			look := func() map[int]held {
				// Connections have been closed, but the core may be about to
				// see it.
				eventually(t, "no connection left", func() bool { return s.status()["conns"] == "0" })
				m := make(map[int]held)
				for _, pid := range []int{s.pid, s.core} {
					m[pid] = held{resident(t, pid), descriptors(t, pid)}
				}
				return m
			}
			first := look()
			hammer(t, s, tt.many-1000)
			last := look()
			for pid, name := range map[int]string{s.pid: "monitor", s.core: "core"} {
				a, b := first[pid], last[pid]
				t.Logf("%s: %d KiB and %d descriptors after 1000 requests, %d KiB and %d after %d", name,
					a.memory, len(a.descriptors), b.memory, len(b.descriptors), tt.many)
				if b.memory > a.memory+1024 && !raceEnabled {
					t.Errorf("%s: memory grows", name)
				}
				if len(a.descriptors) != len(b.descriptors) {
					t.Errorf("%s: descriptors\n%s\nthen\n%s", name, strings.Join(a.descriptors, "\n"), strings.Join(b.descriptors, "\n"))
				}
			}
			if st := s.status(); st["served"] != strconv.Itoa(tt.many) {
				t.Errorf("status record %v", st)
			}
			t.Logf("%v for %d requests", time.Since(began).Round(time.Millisecond), tt.many)
			s.stop()
		})
	}
}

// hammer sends n requests over eight connections that are kept.
func hammer(t *testing.T, s *server, n int) {
	t.Helper()
	const conns = 8
	var wg sync.WaitGroup
	for i := range conns {
		share := n / conns
		if i == 0 {
			share += n % conns
		}
		wg.Go(func() {
			c := dial(t, s.addr)
			defer c.Close()
			raw := text11("GET", "/x?y=z", "User-Agent: test", "Accept: */*")
			for range share {
				c.SetDeadline(time.Now().Add(patience))
				c.trySend(raw)
				if a, err := c.tryAnswer("GET"); err != nil || a.status != 200 || a.err != nil {
					t.Errorf("%v, %v", a, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// onewake is meant to run as an ordinary user, and needs nothing more.
func TestAsOrdinaryUser(t *testing.T) {
	t.Parallel()
	needRoot(t, "an ordinary user runs all of the tests as one")
	launch{cred: nobody(t)}.life(t)
}
