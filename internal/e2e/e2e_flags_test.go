//go:build freebsd || linux

package e2e

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// These tests check what each flag does to the service, -check and exit
// statuses.

func TestFlagVersion(t *testing.T) {
	t.Parallel()
	r := run(t, "-version")
	want := fmt.Sprintf("onewake %s %s %s/%s\n", testVersion, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	if r.status != 0 || r.stdout != want || r.stderr != "" {
		t.Errorf("%+v, want %q", r, want)
	}
}

func TestFlagHelp(t *testing.T) {
	t.Parallel()
	r := run(t, "-h")
	if r.status != 0 || r.stderr != "" || !strings.HasPrefix(r.stdout, "usage: onewake [flags] [--] [command [argument ...]]\n") {
		t.Errorf("%+v", r)
	}
}

func TestExits(t *testing.T) {
	t.Parallel()
	dir := newDir(t, nil)
	listen := "unix:" + dir + "/s"
	os.WriteFile(dir+"/file", nil, 0o644)
	busy, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	tests := []struct {
		name   string
		args   []string
		status int
		want   []string // each is in the output
	}{
		{"unknown flag", []string{"-nonsense"}, statusUsage, []string{"-nonsense"}},
		{"bad value", []string{"-timeout", "0"}, statusUsage, []string{"-timeout", `"0"`, "90s"}},
		{"unknown user", []string{"-socket-owner", "no-such-user"}, statusConfig, []string{"-socket-owner", "no-such-user"}},
		{"no program", []string{"--", dir + "/file"}, statusConfig, []string{dir + "/file", "executable"}},
		{"no directory for the socket", []string{"-listen", "unix:/nonexistent/s"}, statusConfig, []string{"unix:/nonexistent/s"}},
		{"address taken", []string{"-listen", "tcp4:" + busy.Addr().String()}, statusInUse, []string{busy.Addr().String(), "in use"}},
		{"several at once", []string{"-timeout", "0", "-dir", "/nonexistent", "--", "no-such-command"}, statusUsage, []string{"-timeout", "-dir", "no-such-command"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			args := tt.args
			if args[0] != "-listen" {
				args = append([]string{"-listen", listen}, args...)
			}
			r := run(t, args...)
			if r.status != tt.status || r.stdout != "" {
				t.Errorf("exit status %d, want %d: %q, %q", r.status, tt.status, r.stdout, r.stderr)
			}
			for _, w := range tt.want {
				if !strings.Contains(r.stderr, w) {
					t.Errorf("no %q in %q", w, r.stderr)
				}
			}
			if _, err := os.Lstat(dir + "/s"); err == nil {
				t.Error("the socket file has not been removed")
			}
		})
	}
	if os.Geteuid() == 0 {
		root := newDir(t, nil)
		r := launch{cred: nobody(t), args: []string{"-listen", "unix:" + root + "/s"}}.run(t)
		if r.status != statusNoPerm || !strings.Contains(r.stderr, "permission denied") {
			t.Errorf("a directory of root's: exit status %d, %q", r.status, r.stderr)
		}
	}
}

// snapshot returns everything about a directory that -check must not change.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			t.Fatal(err)
		}
		fi, err := d.Info()
		if err != nil {
			t.Fatal(err)
		}
		st := fi.Sys().(*syscall.Stat_t)
		fmt.Fprintln(&b, path, fi.Mode(), fi.Size(), fi.ModTime().UnixNano(), st.Ino, st.Uid, st.Gid, st.Nlink)
		return nil
	})
	return b.String()
}

func TestCheck(t *testing.T) {
	t.Parallel()
	dir := newDir(t, nil)
	path := dir + "/s"
	check := func(t *testing.T, status int, args ...string) result {
		t.Helper()
		before := snapshot(t, dir)
		r := run(t, append([]string{"-check"}, args...)...)
		if after := snapshot(t, dir); after != before {
			t.Errorf("changed:\n%s\nto\n%s", before, after)
		}
		if r.status != status {
			t.Errorf("exit status %d, want %d: %q, %q", r.status, status, r.stdout, r.stderr)
		}
		return r
	}
	t.Run("good", func(t *testing.T) {
		r := check(t, 0, "-listen", "unix:"+path, "-listen", "tcp4:127.0.0.1:0", "--", "/bin/echo")
		if r.stderr != "" {
			t.Errorf("%+v", r)
		}
	})
	t.Run("a running server of ours", func(t *testing.T) {
		s := launch{dir: dir, args: []string{"--", "/bin/echo", "hello"}}.start(t)
		r := check(t, 0, "-listen", "unix:"+path, "--", "/bin/echo")
		if !strings.Contains(r.stdout, "running") {
			t.Errorf("%+v", r)
		}
		s.get("/").want(t, 200, "hello\n")
		s.stop()
	})
	t.Run("a leftover", func(t *testing.T) {
		ln, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		ln.(*net.UnixListener).SetUnlinkOnClose(false)
		ln.Close()
		r := check(t, 0, "-listen", "unix:"+path)
		if !strings.Contains(r.stdout, path) {
			t.Errorf("%+v", r)
		}
		os.Remove(path)
	})
	t.Run("another server", func(t *testing.T) {
		ln, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		check(t, statusInUse, "-listen", "tcp4:127.0.0.1:0", "-listen", "unix:"+path)
	})
	t.Run("no socket", func(t *testing.T) {
		os.WriteFile(path, []byte("precious"), 0o644)
		defer os.Remove(path)
		check(t, statusConfig, "-listen", "unix:"+path)
	})
	t.Run("all errors at once", func(t *testing.T) {
		os.WriteFile(path, []byte("precious"), 0o644)
		defer os.Remove(path)
		unsafe := newDir(t, nil)
		os.Chmod(unsafe, 0o777)
		r := check(t, statusConfig, "-listen", "unix:"+path, "-listen", "unix:"+unsafe+"/s", "-socket-group", "no-such-group",
			"-dir", "/nonexistent", "-env", "NO_SUCH_VARIABLE", "--", "no-such-command")
		for _, w := range []string{path, "not a socket", unsafe, "no-such-group", "/nonexistent", "NO_SUCH_VARIABLE", "no-such-command"} {
			if !strings.Contains(r.stderr, w) {
				t.Errorf("no %q in %q", w, r.stderr)
			}
		}
		if n := strings.Count(r.stderr, "onewake: "); n != 6 {
			t.Errorf("%d errors, want 6:\n%s", n, r.stderr)
		}
	})
	t.Run("too few open files", func(t *testing.T) {
		limit := []string{"/bin/sh", "-c", `ulimit -n 18; exec "$0" "$@"`}
		r := launch{before: limit, args: []string{"-check", "-listen", "unix:" + dir + "/few"}}.run(t)
		if r.status != statusOS || !strings.Contains(r.stderr, "the system allows 18 open files, a start needs 23 (ulimit -n)") {
			t.Errorf("%+v", r)
		}
	})
	t.Run("not permitted", func(t *testing.T) {
		needRoot(t, "it takes a directory away")
		dir := newDir(t, nil)
		r := launch{cred: nobody(t), args: []string{"-check", "-listen", "unix:" + dir + "/s", "-socket-owner", "root"}}.run(t)
		if r.status != statusNoPerm || strings.Count(r.stderr, "\n") != 2 {
			t.Errorf("%+v", r)
		}
		if entries, _ := os.ReadDir(dir); len(entries) > 0 {
			t.Errorf("%v", entries)
		}
	})
}

func TestFlagsOfAnswers(t *testing.T) {
	t.Parallel()
	s := shell(t, `printf '%s|%s|%s' "$SCRIPT_NAME" "$PATH_INFO" "$REQUEST_URI"`,
		"-script-name", "/git/x y", "-content-type", "text/html; charset=koi8-r", "-access-log=false")
	a := s.get("/git/x%20y/a%20b%2Fc?q")
	a.want(t, 200, "/git/x y|/a b/c|/git/x%20y/a%20b%2Fc?q")
	wantField("Content-Type", "text/html; charset=koi8-r")(t, a)
	s.get("/git/x%20yz").wantStatus(t, 404)
	s.stop()
	if r := s.find("request"); len(r) > 0 {
		t.Errorf("access records %v", r)
	}
}

func TestFlagForwarded(t *testing.T) {
	t.Parallel()
	command := `printf '%s|%s|%s|%s|%s' "$REMOTE_ADDR" "$REMOTE_HOST" "$HTTPS" "$REQUEST_SCHEME" "$SERVER_NAME"`
	fields := []string{"X-Real-IP: 192.0.2.1", "X-Forwarded-For: 203.0.113.9, 2001:db8::1", "X-Forwarded-Proto: https",
		"X-Forwarded-Host: www.example.org:8443", "X-Request-Id: id-1"}
	host, _ := os.Hostname()
	for _, tt := range []struct{ list, want, id string }{
		{"", "<unix>|<unix>||http|" + host, ""},
		{"x-forwarded-for", "2001:db8::1|2001:db8::1||http|" + host, ""},
		{"X-Real-IP,X-Forwarded-Proto,X-Forwarded-Host,X-Request-Id", "192.0.2.1|192.0.2.1|on|https|www.example.org", "id-1"},
	} {
		s := shell(t, command, "-forwarded", tt.list)
		s.get("/", fields...).want(t, 200, tt.want)
		if rec := s.await("request"); rec["peer"] != "<unix>" || (tt.id == "") != madeID.MatchString(rec["request_id"]) || tt.id != "" && rec["request_id"] != tt.id {
			t.Errorf("%q: access record %v", tt.list, rec)
		}
		// A trusted header with an invalid address is refused.
		status := 400
		if tt.list == "" {
			status = 200
		}
		s.get("/", "X-Real-IP: evil; rm", "X-Forwarded-For: x", "X-Forwarded-Host: a/b", "X-Forwarded-Proto: x", "X-Request-Id: a b").wantStatus(t, status)
		s.stop()
	}
}

// madeID is a generated request ID.
var madeID = regexp.MustCompile("^[0-9a-f]{32}$")

// TestRequestID checks that a request has the same ID in its variables, in its
// access record and in all records about its commands, also after a redirect
// and a failure.
func TestRequestID(t *testing.T) {
	t.Parallel()
	s := shell(t, `echo "$PATH_INFO $HTTP_X_REQUEST_ID" >&2
		case $PATH_INFO in
		/) printf 'Location: /next\n\n';;
		/next) printf 'Content-Type: text/plain\n\n%s' "$UNIQUE_ID";;
		*) exit 3;;
		esac`, "-cgi")
	made := s.get("/", "X-Request-Id: evil")
	rec := s.await("request")
	id := rec["request_id"]
	if !madeID.MatchString(id) || rec["client"] != "" {
		t.Errorf("access record %v", rec)
	}
	made.want(t, 200, id)
	for _, path := range []string{"/", "/next"} {
		if r := s.await("stderr", "text", path+" "+id+"\n"); r["request_id"] != id {
			t.Errorf("stderr record %v", r)
		}
	}
	s.get("/fails").wantStatus(t, 502)
	other := s.await("request", "target", "/fails")["request_id"]
	if other == id || !madeID.MatchString(other) {
		t.Errorf("request_id %q after %q", other, id)
	}
	for _, msg := range []string{"malformed response", "command failed"} {
		if r := s.await(msg); r["request_id"] != other {
			t.Errorf("record %v, want request_id %s", r, other)
		}
	}
	s.stop()
}

// The third connection is not accepted while two are open.
func TestFlagMaxConns(t *testing.T) {
	t.Parallel()
	s := start(t, "-max-conns", "2")
	a, b := dial(t, s.addr), dial(t, s.addr)
	both := func() {
		for _, c := range []*conn{a, b} {
			c.send("%s", text11("GET", "/"))
			c.answer("GET").wantStatus(t, 200)
		}
	}
	both()
	c := dial(t, s.addr)
	c.send("%s", text11("GET", "/third"))
	for range 10 { // the core has had time to serve it
		both()
	}
	if r := s.find("request", "target", "/third"); len(r) > 0 {
		t.Errorf("a third connection is served: %v", r)
	}
	a.Close()
	c.answer("GET").wantStatus(t, 200)
	s.stop()
}

// A large body goes through a file that has no name.
func TestFlagSpoolDir(t *testing.T) {
	t.Parallel()
	dir := newDir(t, nil)
	s := shell(t, `printf '%s ' "$CONTENT_LENGTH"; cksum`, "-spool-dir", dir, "-max-body", "1GiB")
	body := strings.Repeat("0123456789abcdef", 3<<16) // 3 MiB
	a := s.request("POST", chunked11("/", body))
	a.want(t, 200, "3145728 4032325091 3145728\n") // like cksum(1)
	if e, err := os.ReadDir(dir); err != nil || len(e) > 0 {
		t.Errorf("left in the spool directory: %v, %v", e, err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if a := s.request("POST", chunked11("/", body)); a.status < 500 {
		t.Errorf("got %d without a spool directory", a.status)
	}
	s.stop()
}

var timeForm = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z$`)

// TestLog checks that each record is one line with the documented keys, and
// that everything from a client or a command is quoted.
func TestLog(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"text", "json"} {
		t.Run(format, func(t *testing.T) {
			s := shell(t, `printf 'a "quoted" line\nsecond\033[31m line \\ \377' >&2; echo out`, "-log-format", format)
			start := s.await("start")
			for k, want := range map[string]string{
				"version": testVersion, "go": runtime.Version(), "system": runtime.GOOS + "/" + runtime.GOARCH,
				"pid": fmt.Sprint(s.pid), "level": "INFO",
			} {
				if start[k] != want {
					t.Errorf("start record: %s is %q, want %q", k, start[k], want)
				}
			}
			for _, k := range []string{"listen", "socket", "user", "sandbox", "enforced", "core", "max_procs", "command"} {
				if start[k] == "" {
					t.Errorf("start record: no %s", k)
				}
			}
			if got := splitList(start["listen"]); got[0] != "unix:"+s.path {
				t.Errorf("start record: listen %q", got)
			}
			if os.Geteuid() == 0 {
				s.await("running as root: commands run as root too")
			}
			target := `/a"b'c\d%0a=x?q="1"&é` + "\xff" + strings.Repeat("y", 3000)
			s.get(target).want(t, 200, "out\n")
			rec := s.await("request")
			for k, want := range map[string]string{
				"peer": "<unix>", "uid": fmt.Sprint(os.Geteuid()), "method": "GET", "status": "200", "bytes": "4", "exit": "exit 0",
			} {
				if rec[k] != want {
					t.Errorf("access record: %s is %q, want %q", k, rec[k], want)
				}
			}
			for _, k := range []string{"duration", "queue", "process"} {
				if rec[k] == "" {
					t.Errorf("access record: no %s", k)
				}
			}
			if !timeForm.MatchString(rec["time"]) {
				t.Errorf("access record: time %q", rec["time"])
			}
			if !strings.HasPrefix(rec["target"], `/a"b'c\d%0a=x?q="1"&é`) || !strings.HasSuffix(rec["target"], "]") {
				t.Errorf("access record: path %q", rec["target"])
			}
			text := s.await("stderr")
			if text["process"] != rec["process"] || !strings.HasPrefix(text["text"], "a \"quoted\" line\nsecond\x1b[31m line \\ ") {
				t.Errorf("stderr record %v", text)
			}
			s.stop()
		})
	}
}

// TestLogStderrWhole: nothing is missing of some lines on standard error.
func TestLogStderrWhole(t *testing.T) {
	t.Parallel()
	const lines = 200
	s := shell(t, fmt.Sprintf(`i=0; while [ $i -lt %d ]; do echo "\"$i\"" >&2; i=$((i + 1)); done`, lines))
	s.get("/").wantStatus(t, 200)
	s.await("request")
	s.stop()
	var got, want strings.Builder
	for _, r := range s.find("stderr") {
		got.WriteString(r["text"])
	}
	for i := range lines {
		fmt.Fprintf(&want, "\"%d\"\n", i)
	}
	if got.String() != want.String() {
		t.Errorf("logged %q", got.String())
	}
}

// Of a command that writes errors without end 8 KiB are logged.
func TestLogStderrBounded(t *testing.T) {
	t.Parallel()
	const size = 300000
	s := shell(t, zeros(size)+` >&2; echo out`)
	s.get("/").want(t, 200, "out\n")
	rec := s.await("request")
	more := s.await("stderr truncated")
	total := 0
	for _, r := range s.find("stderr") {
		total += len(r["text"])
		if r["process"] != rec["process"] {
			t.Errorf("stderr record %v", r)
		}
	}
	if total != 8<<10 || more["bytes"] != fmt.Sprint(size-8<<10) || more["process"] != rec["process"] {
		t.Errorf("%d bytes logged, then %v", total, more)
	}
	s.stop()
}
