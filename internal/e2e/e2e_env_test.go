//go:build freebsd || linux

package e2e

import (
	"encoding/json"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// These tests check what both processes and the command must always get.

// surroundings is what a command sees of its environment.
type surroundings struct {
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

// roleTell is a command that prints what it sees.
func roleTell(args []string) int {
	v := surroundings{Args: args, Env: os.Environ(), PGID: syscall.Getpgrp(), PID: os.Getpid(), UID: os.Getuid()}
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

// inherited are the descriptors that this process was started with. Those that
// the Go runtime has opened have close-on-exec set.
var inherited = func() (open []int) {
	for fd := range 1024 {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			open = append(open, fd)
		}
	}
	return open
}()

// ask requests the output of roleTell.
func (s *server) ask(target string, fields ...string) (v surroundings) {
	s.t.Helper()
	a := s.get(target, fields...)
	if err := json.Unmarshal([]byte(a.body), &v); err != nil || a.status != 200 {
		s.t.Fatalf("%d, %q: %v", a.status, a.body, err)
	}
	return v
}

// tellCommand is the command line of roleTell.
func tellCommand(t *testing.T) []string {
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
			l := careless(t)
			l.cred = cred
			l.args = append([]string{"-forwarded", "X-Request-Id", "-env", "GIVEN=one two", "-env", "SHARED", "-dir", "/usr"}, tellCommand(t)...)
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
			uid := os.Geteuid()
			if cred != nil {
				uid = int(cred.Uid)
			}
			if v.UID != uid {
				t.Errorf("user %d, want %d", v.UID, uid)
			}
			if v.Dir != "/usr" || v.PGID != v.PID {
				t.Errorf("directory %s, process %d in group %d", v.Dir, v.PID, v.PGID)
			}
			s.stop()
		})
	}
}

// On TCP SERVER_NAME and SERVER_PORT are those of the listener, and peers have
// addresses.
func TestCommandSurroundingsTCP(t *testing.T) {
	t.Parallel()
	tests := []struct{ listen, name, remote string }{
		{"tcp4:127.0.0.1:0", "127.0.0.1", "127.0.0.1"},
		{"tcp6:[::1]:0", "[::1]", "::1"},
		{"tcp4:localhost:0", "localhost", "127.0.0.1"},
	}
	var flags []string
	for _, tt := range tests {
		flags = append(flags, "-listen", tt.listen)
	}
	s := start(t, append(flags, tellCommand(t)...)...)
	listen := splitList(s.await("start")["listen"])
	for i, tt := range tests {
		t.Run(tt.listen, func(t *testing.T) {
			c := dial(t, dialable(listen[i]))
			c.send("%s", get11("/"))
			var v surroundings
			if err := json.Unmarshal([]byte(c.answer("GET").body), &v); err != nil {
				t.Fatal(err)
			}
			_, server, _ := net.SplitHostPort(c.RemoteAddr().String())
			_, port, _ := net.SplitHostPort(c.LocalAddr().String())
			for _, want := range []string{
				"SERVER_NAME=" + tt.name, "SERVER_PORT=" + server, "REMOTE_ADDR=" + tt.remote, "REMOTE_HOST=" + tt.remote, "REMOTE_PORT=" + port,
			} {
				if !slices.Contains(v.Env, want) {
					t.Errorf("no %s in %q", want, v.Env)
				}
			}
			if rec := s.await("request", "port", port); rec["peer"] != tt.remote || rec["uid"] != "" {
				t.Errorf("access record %v", rec)
			}
		})
	}
	s.stop()
}

// onewake works as an ordinary user.
func TestAsOrdinaryUser(t *testing.T) {
	t.Parallel()
	needRoot(t, "an ordinary user runs all of the tests as one")
	launch{cred: nobody(t)}.life(t)
}

// A request cannot set the variables of -env. It is answered nevertheless.
func TestEnvWins(t *testing.T) {
	t.Parallel()
	s := shell(t, `echo "$FORM_a $FORM_b $REMOTE_USER $HTTP_X_A"`, "-form", "-forwarded", "X-Remote-User",
		"-env", "FORM_a=ours", "-env", "REMOTE_USER=us")
	s.get("/?a=theirs&b=theirs", "X-Remote-User: them", "X-A: theirs").want(t, 200, "ours theirs us theirs\n")
	s.stop()
	root := newDir(t, nil)
	script(t, root, "a", `printf 'Content-Type: text/plain\n\n%s' "$SCRIPT_FILENAME"`)
	s = start(t, "-scripts", root, "-env", "SCRIPT_FILENAME=ours")
	s.get("/a").want(t, 200, "ours")
	s.stop()
}
