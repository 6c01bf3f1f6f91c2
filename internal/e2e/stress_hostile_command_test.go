//go:build stress && linux

package e2e

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Whatever a command does, the request ends in time, and so do the command and
// all processes that it has started.
func TestStressHostileCommand(t *testing.T) {
	storm(t)
	// In a short turn the speed of the machine does not matter.
	timeout, killAfter := count(4*time.Second, 1700*time.Millisecond), 500*time.Millisecond
	flood := strconv.Itoa(count(1_000_000, 100_000_000))
	type want struct {
		status int  // 0: the answer is cut or missing
		cut    bool // with this status
		ended  string
		within time.Duration // until the answer
	}
	for _, tt := range []struct {
		name, text string
		cgi        bool
		want       want
	}{
		{"ignores TERM", `trap '' TERM; while :; do sleep 1; done`, false, want{504, false, "timeout", timeout}},
		{"stops itself", `kill -STOP $$`, false, want{504, false, "timeout", timeout}},
		{"writes nothing and stays", `exec sleep 100`, true, want{504, false, "timeout", timeout}},
		{"writes nothing", `exit 0`, false, want{200, false, "", 0}},
		{"writes nothing as CGI", `exit 0`, true, want{502, false, "", 0}},
		{"closes its output and stays", `exec <&- >&- 2>&-; exec sleep 100`, false, want{504, false, "timeout", timeout}},
		{"closes its output and stays, as CGI", `echo Content-Type: text/plain; echo; echo x; exec <&- >&- 2>&-; exec sleep 100`, true,
			want{200, false, "", time.Second}},
		{"writes for ever", `exec cat /dev/zero`, false, want{200, true, "timeout", timeout}},
		{"writes for ever as CGI", `echo Content-Type: text/plain; echo; exec cat /dev/zero`, true, want{200, true, "timeout", timeout}},
		{"a header of 1 GB", `exec head -c 1000000000 /dev/zero`, true, want{502, false, "malformed response", 0}},
		{"a header of 1 GB in lines", `while :; do echo "X-Fill: 0123456789012345678901234567890123456789012345678901234567890123456789"; done`, true,
			want{502, false, "malformed response", 0}},
		{"a grandchild holds the pipe", `(exec sleep 100) & exit 0`, false, want{200, false, "", 0}},
		{"a grandchild holds the pipe, as CGI", `echo Content-Type: text/plain; echo; (exec sleep 100) & exit 0`, true, want{200, false, "", 0}},
		{"a grandchild ignores TERM", `(trap '' TERM HUP; while :; do sleep 1; done) & exit 0`, false, want{200, false, "", killAfter}},
		{"a grandchild in a session of its own holds the pipe", `setsid sh -c 'trap "" TERM HUP; >"$0"; while :; do sleep 1; done' "${0%/*}/left" & while ! [ -e "${0%/*}/left" ]; do sleep 0.01; done; exit 0`, false, want{200, false, "", killAfter}},
		{"leaves its session", `setsid sh -c 'trap "" TERM HUP; while :; do sleep 1; done' </dev/null >/dev/null 2>&1 & exit 0`, false, want{200, false, "", 0}},
		{"leaves its session and stays", `setsid sh -c 'trap "" TERM HUP; while :; do sleep 1; done' & exec sleep 100`, false, want{504, false, "timeout", timeout}},
		{"a daemon, forked twice", `(setsid sh -c '(while :; do sleep 1; done) &' &) </dev/null >/dev/null 2>&1; exit 0`, false, want{200, false, "", 0}},
		{"a group of its own", `set -m; (trap '' TERM HUP; while :; do sleep 1; done) </dev/null >/dev/null 2>&1 & exit 0`, false, want{200, false, "", 0}},
		{"floods stderr", `head -c ` + flood + ` /dev/zero | tr '\0' 'e' >&2; echo done`, false, want{200, false, "", 0}},
		{"floods stderr for ever", `exec cat /dev/zero >&2`, false, want{504, false, "timeout", timeout}},
		{"fills its descriptors", `i=3; while [ $i -lt 10 ]; do eval "exec $i</dev/null"; i=$((i+1)); done; exec sleep 100`, false, want{504, false, "timeout", timeout}},
		{"kills its own group", `kill -KILL 0`, false, want{500, false, "", 0}},
		{"signals monitor and core", `for p in $PPID $(cat /proc/$PPID/task/*/children); do [ $p = $$ ] || kill -HUP $p; [ $p = $$ ] || kill -USR1 $p; done; echo ok`, false, want{200, false, "", 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := newDir(t, nil)
			mark := filepath.Base(dir)
			args := []string{"-timeout", timeout.String(), "-kill-after", killAfter.String(), "-max-procs", "2"}
			if tt.cgi {
				args = append(args, "-cgi")
			}
			// All processes that a command starts have the mark in their
			// environment.
			s := start(t, append(args, "-env", "MARK="+mark, "--", script(t, dir, "hostile", `
[ "$PATH_INFO" = /honest ] && { echo Content-Type: text/plain; echo; exit 0; }
`+tt.text))...)
			began := time.Now()
			c := dial(t, s.addr).send("%s", get11("/"))
			resp, err := http.ReadResponse(c.r, &http.Request{Method: "GET"})
			if err != nil {
				t.Fatal(err)
			}
			_, err = io.Copy(io.Discard, resp.Body)
			took := time.Since(began)
			if resp.StatusCode != tt.want.status || (err != nil) != tt.want.cut {
				t.Errorf("got %d, %v; want %d, cut: %v", resp.StatusCode, err, tt.want.status, tt.want.cut)
			}
			if took > tt.want.within+slack || tt.want.ended == "timeout" && took < timeout-100*time.Millisecond {
				off(t, "the answer took %v, want %v", took, tt.want.within)
			}
			if rec := s.await("request"); rec["ended"] != tt.want.ended {
				t.Errorf("the record is %v, want ended=%q", rec, tt.want.ended)
			}
			eventually(t, "the end of all that was started", func() bool { return len(marked(mark)) == 0 })
			gone := time.Since(began)
			if gone > tt.want.within+killAfter+time.Second+slack {
				off(t, "its processes have lived for %v", gone)
			}
			s.get("/honest").wantStatus(t, 200)
			if n := len(childrenOf(s.pid)); n > 1 {
				eventually(t, "no zombie", func() bool { return len(childrenOf(s.pid)) == 1 })
			}
			t.Logf("answer %d after %v, its processes gone after %v", resp.StatusCode, took.Round(time.Millisecond), gone.Round(time.Millisecond))
			size := len(s.logText())
			if size > 64<<10 {
				t.Errorf("%d bytes of log", size)
			}
			s.stop()
		})
	}
}

// marked lists the running processes with MARK=mark in their environment.
func marked(mark string) (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		b, _ := os.ReadFile("/proc/" + e.Name() + "/environ")
		if strings.Contains(string(b), "MARK="+mark) && !isGone(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// A command that forks without end uses up the limits of the system, and is
// gone when its request ends.
func TestStressForkingCommand(t *testing.T) {
	storm(t)
	dir := newDir(t, nil)
	mark := filepath.Base(dir)
	s := start(t, "-timeout", "1s", "-kill-after", "300ms", "-env", "MARK="+mark, "--", script(t, dir, "forks", `
[ "$PATH_INFO" = /honest ] && exit 0
i=0
while [ $i -lt 300 ]; do
	setsid sleep 100 & i=$((i+1))
done
exec sleep 100`))
	s.get("/").wantStatus(t, 504)
	eventually(t, "the end of 300 processes that have left their session", func() bool { return len(marked(mark)) == 0 })
	s.get("/honest").want(t, 200, "")
	eventually(t, "no zombie", func() bool { return len(childrenOf(s.pid)) == 1 })
	s.stop()
}

// A process group gets -kill-after once, also if processes are left when its
// leader has exited.
func TestStressKillAfterIsOnce(t *testing.T) {
	storm(t)
	long(t, "it measures how long -kill-after is")
	t.Parallel()
	dir := newDir(t, nil)
	s := start(t, "-timeout", "1s", "-kill-after", "3s", "-dir", dir, "--", script(t, dir, "leaves", `
(trap '' TERM; echo >ready; while :; do sleep .1; done) & child=$!
trap 'sleep 2.5; exit' TERM
while ! [ -e ready ]; do sleep .02; done
echo $child >child
while :; do wait; done`))
	c := dial(t, s.addr).send("%s", get11("/"))
	began := time.Now()
	child := readPID(t, dir+"/child")
	c.answer("GET").wantStatus(t, 504)
	awaitGone(t, child)
	took := time.Since(began)
	t.Logf("what the leader had left behind was gone after %v", took.Round(time.Millisecond))
	if took < 3700*time.Millisecond || took > 5500*time.Millisecond {
		off(t, "gone after %v, want 4 s", took)
	}
	s.stop()
}

// Zombies do not accumulate during a long request.
func TestStressOrphansOfOneRequest(t *testing.T) {
	storm(t)
	t.Parallel()
	dir := newDir(t, nil)
	s := start(t, "-dir", dir, "--", script(t, dir, "orphans", `
for go in go1 go2; do
	i=0
	while [ $i -lt 50 ]; do
		(setsid true &) </dev/null >/dev/null 2>&1; i=$((i+1))
	done
	echo >"made-$go"
	while ! [ -e $go ]; do sleep .05; done
done`))
	c := dial(t, s.addr).send("%s", get11("/"))
	for _, name := range []string{"go1", "go2"} {
		eventually(t, "50 orphans", func() bool { _, err := os.Stat(dir + "/made-" + name); return err == nil })
		eventually(t, "no child but the core and the command", func() bool { return len(childrenOf(s.pid)) <= 2 })
		os.WriteFile(dir+"/"+name, nil, 0o644)
	}
	c.answer("GET").want(t, 200, "")
	s.stop()
}

// An orphan of a command is reaped while other requests run.
func TestStressOrphansAreReaped(t *testing.T) {
	storm(t)
	dir := newDir(t, nil)
	s := start(t, "-max-procs", "4", "--", script(t, dir, "orphans", `
[ "$QUERY_STRING" = long ] && exec sleep 1.5
(setsid sleep 0.05 &) </dev/null >/dev/null 2>&1
exit 0`))
	long := dial(t, s.addr).send("%s", get11("/?long"))
	for range 50 {
		s.get("/").want(t, 200, "")
	}
	eventually(t, "no child but the core and the long one", func() bool { return len(childrenOf(s.pid)) <= 2 })
	long.answer("GET").want(t, 200, "")
	s.stop()
}
