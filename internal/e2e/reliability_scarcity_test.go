//go:build linux

package e2e

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// setLimit sets a soft limit of the monitor or the core, at most as high as the
// hard one.
func (s *server) setLimit(pid, resource int, soft int64) {
	s.t.Helper()
	as(s.t, s.cred, "limit", strconv.Itoa(pid), strconv.Itoa(resource), strconv.FormatInt(soft, 10))
}

const noLimit = 1 << 40

// Without descriptors, whoever cannot be served is told so, nobody gets
// another's answer, and nothing has to be restarted.
func TestFewDescriptors(t *testing.T) {
	needRoot(t, "it sets the limits of processes that are closed to their own user")
	for _, whose := range []string{"monitor", "core", "both"} {
		t.Run(whose, func(t *testing.T) {
			s := start(t, "-access-log=false", "-max-procs", "16", "-max-conns", "200", "--", script(t, newDir(t, nil), "echo", echoText))
			s.troubles = true
			tr := newTraffic(t, s.addr)
			tr.sleep, tr.size, tr.pause = "0.02", 128<<10, time.Millisecond
			load := func(d time.Duration) {
				tr.quit = make(chan struct{})
				tr.add(20, fresh)
				tr.add(20, slow)
				tr.add(10, keeping)
				tr.add(5, upload)
				time.Sleep(d)
				tr.end()
			}
			load(300 * time.Millisecond)
			tr.none(lost, wrong, busy, unheard)
			before := holds(t, s.pid)
			for pid, name := range map[int]string{s.pid: "monitor", s.core: "core"} {
				if whose == name || whose == "both" {
					// The core keeps some connections and has few left for pipes.
					s.setLimit(pid, unix.RLIMIT_NOFILE, int64(before.descriptors+map[string]int{"monitor": 4, "core": 40}[name]))
				}
			}
			load(1500 * time.Millisecond)
			tr.none(lost, wrong, unheard)
			c := tr.counts()
			s.setLimit(s.pid, unix.RLIMIT_NOFILE, noLimit)
			s.setLimit(s.core, unix.RLIMIT_NOFILE, noLimit)
			tr.mu.Lock()
			tr.others = nil
			tr.mu.Unlock()
			load(300 * time.Millisecond)
			tr.none(lost, wrong, busy, unheard)
			if st := s.status(); st["restarts"] != "0" {
				t.Errorf("the core was started again: %v", st)
			}
			t.Logf("%d answered, %d times 503 in want of descriptors; %d records say so", c[answered], c[busy],
				len(s.find("command cannot be started"))+len(s.find("cannot accept")))
			s.settled(before)
			s.stop()
		})
	}
}

// A small limit from the start on is shared out.
func TestSmallDescriptorLimit(t *testing.T) {
	s := launch{shell: "ulimit -n 128", args: []string{"-access-log=false", "-max-procs", "4", "--",
		script(t, newDir(t, nil), "echo", echoText)}}.start(t)
	tr := newTraffic(t, s.addr)
	tr.sleep, tr.size = "0.05", 128<<10
	tr.add(200, fresh)
	tr.add(10, slow)
	tr.add(5, upload)
	time.Sleep(1500 * time.Millisecond)
	tr.end()
	tr.none(lost, wrong, busy, unheard)
	t.Logf("%d clients at 128 descriptors: %d answered, none lost", 215, tr.counts()[answered])
	s.stop()
}

// stranger is an ordinary user that nobody else runs anything as.
func stranger() *syscall.Credential {
	return &syscall.Credential{Uid: 64000 + uint32(os.Getpid()%1000), Gid: 65534, NoSetGroups: true}
}

// Without processes requests are refused, and served when there are some.
func TestNoProcesses(t *testing.T) {
	needRoot(t, "it starts onewake as another user, with limits")
	s := launch{cred: stranger(), args: []string{"--", script(t, newDir(t, nil), "echo", echoText)}}.start(t)
	s.troubles = true
	s.get("/a").want(t, 200, "/a -\n")
	before := holds(t, s.pid)
	s.setLimit(s.pid, unix.RLIMIT_NPROC, 1)
	const n = 5
	for range n {
		a := s.get("/b")
		a.wantStatus(t, 503)
		if a.header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
	}
	s.awaitN(n, "command cannot be started")
	if r := s.find("command cannot be started"); len(r) != n {
		t.Errorf("%d records of %d failures: %v", len(r), n, r)
	}
	s.setLimit(s.pid, unix.RLIMIT_NPROC, noLimit)
	s.get("/c").want(t, 200, "/c -\n")
	s.settled(before)
	s.stop()
}

// Nor does a core that dies when no other can be started end the service.
func TestNoProcessForTheCore(t *testing.T) {
	needRoot(t, "it starts onewake as another user, with limits")
	s := launch{cred: stranger(), args: []string{"--", script(t, newDir(t, nil), "echo", echoText)}}.start(t)
	s.troubles = true
	s.setLimit(s.pid, unix.RLIMIT_NPROC, 1)
	syscall.Kill(s.core, syscall.SIGKILL)
	s.awaitN(4, "cannot start a core")
	s.setLimit(s.pid, unix.RLIMIT_NPROC, noLimit)
	s.get("/c").want(t, 200, "/c -\n")
	s.stop()
}

// Without memory for the command, the command dies of it, and nothing else does.
func TestNoMemoryForTheCommand(t *testing.T) {
	needRoot(t, "it sets the limits of a process that is closed to its own user")
	dir := newDir(t, nil)
	s := start(t, "--", script(t, dir, "greedy", `
[ "$PATH_INFO" = /small ] && ulimit -v 100
exec `+need(t, "head", "coreutils")+` -c 5 /dev/zero`))
	s.get("/").want(t, 200, "\x00\x00\x00\x00\x00")
	s.get("/small").wantStatus(t, 500)
	if r := s.await("command failed"); !strings.HasPrefix(r["status"], "signal ") {
		t.Errorf("%v, want a death by a signal", r)
	}
	s.get("/").want(t, 200, "\x00\x00\x00\x00\x00")
	if !raceEnabled {
		// No process image at all. The monitor itself asks for no memory here.
		s.setLimit(s.pid, unix.RLIMIT_AS, 64<<10)
		a := s.get("/")
		s.setLimit(s.pid, unix.RLIMIT_AS, noLimit)
		a.wantStatus(t, 500)
		if r := s.awaitN(2, "command failed"); !strings.HasPrefix(r["status"], "signal ") {
			t.Errorf("%v, want a death by a signal", r)
		}
	}
	s.get("/").want(t, 200, "\x00\x00\x00\x00\x00")
	if r := s.status()["restarts"]; r != "0" {
		t.Errorf("%s cores started again", r)
	}
	s.stop()
}

// memoryGroup makes a control group with so much memory (cgroups(7), version 2).
func memoryGroup(t *testing.T, bytes int) string {
	t.Helper()
	needRoot(t, "it makes a control group")
	has := func(root string) bool {
		b, _ := os.ReadFile(root + "/cgroup.controllers")
		return slices.Contains(strings.Fields(string(b)), "memory")
	}
	root := "/sys/fs/cgroup"
	if !has(root) {
		root = newDir(t, nil)
		if err := unix.Mount("none", root, "cgroup2", 0, ""); err != nil {
			t.Skip("no control groups of version 2: ", err)
		}
		t.Cleanup(func() { unix.Unmount(root, unix.MNT_DETACH) })
		if !has(root) {
			t.Skip("the control groups of version 2 have no memory controller here")
		}
	}
	if err := os.WriteFile(root+"/cgroup.subtree_control", []byte("+memory"), 0o644); err != nil {
		t.Skip("no control group can be given a limit here: ", err)
	}
	dir, err := os.MkdirTemp(root, "onewake-test-")
	if err != nil {
		t.Skip("no control group can be made here: ", err)
	}
	t.Cleanup(func() { syscall.Rmdir(dir) })
	if err := os.WriteFile(dir+"/memory.max", []byte(strconv.Itoa(bytes)), 0o644); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(dir+"/memory.swap.max", []byte("0"), 0o644) // not everywhere
	return dir
}

// Nor does anything else die when the kernel kills a command for want of memory
// in its control group.
func TestNoMemoryInTheGroup(t *testing.T) {
	group := memoryGroup(t, 32<<20)
	s := start(t, "-max-procs", "4", "--", script(t, newDir(t, nil), "greedy", `
[ "$PATH_INFO" = /greedy ] || exec echo fine
echo $$ >"`+group+`/cgroup.procs" || exit 3
exec tail /dev/zero`))
	before := holds(t, s.pid)
	const n = 3
	for i := range n {
		s.get("/greedy").wantStatus(t, 500)
		if r := s.awaitN(i+1, "command failed"); r["status"] != "signal 9" {
			t.Errorf("%v, want signal 9", r)
		}
		s.get("/").want(t, 200, "fine\n")
	}
	b, _ := os.ReadFile(group + "/memory.events")
	if !strings.Contains(string(b), fmt.Sprintf("\noom_kill %d\n", n)) {
		t.Errorf("the kernel says %q, want %d killed", b, n)
	}
	if r := s.status()["restarts"]; r != "0" {
		t.Errorf("%s cores started again", r)
	}
	s.settled(before)
	s.stop()
}

// Where there is no room for a body, its request is refused.
func TestNoRoomToSpool(t *testing.T) {
	dir := mount(t, "size=4m")
	s := start(t, "-spool-dir", dir, "--", script(t, newDir(t, nil), "echo", echoText))
	s.troubles = true
	chunked := func(size int) *answer {
		c := dial(t, s.addr)
		defer c.Close()
		c.trySend("POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
		piece := fmt.Sprintf("%x\r\n%s\r\n", 64<<10, strings.Repeat("x", 64<<10))
		for range size / (64 << 10) {
			c.trySend(piece)
		}
		c.trySend("0\r\n\r\n")
		return c.answer("POST")
	}
	empty := func() {
		t.Helper()
		var st unix.Statfs_t
		eventually(t, "an empty file system", func() bool {
			return unix.Statfs(dir, &st) == nil && st.Bfree == st.Blocks
		})
	}
	chunked(3<<20).want(t, 200, "/b 3145728\n")
	empty() // the answer comes first
	if err := os.WriteFile(filepath.Join(dir, "fill"), bytes.Repeat([]byte{1}, 3<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	a := chunked(3 << 20)
	a.wantStatus(t, 503)
	if a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	s.await("cannot keep a body")
	if r := s.find("cannot keep a body"); len(r) != 1 || !strings.Contains(r[0]["error"], "no space left on device") {
		t.Errorf("records %v", r)
	}
	// What needs no file is served.
	chunked(512<<10).want(t, 200, "/b 524288\n")
	os.Remove(filepath.Join(dir, "fill"))
	chunked(3<<20).want(t, 200, "/b 3145728\n")
	empty()
	s.stop()
}

// A command that vanishes and comes back.
func TestCommandVanishes(t *testing.T) {
	needRoot(t, "it counts the descriptors of processes that are closed to their own user")
	dir := newDir(t, nil)
	path := script(t, dir, "echo", echoText)
	s := start(t, "--", path)
	before := holds(t, s.pid)
	for i := range 5 {
		s.get("/a").want(t, 200, "/a -\n")
		os.Rename(path, path+".away")
		s.get("/b").wantStatus(t, 502)
		if r := s.awaitN(i+1, "command cannot be started"); !strings.Contains(r["error"], "no such file") {
			t.Errorf("record %v", r)
		}
		os.Rename(path+".away", path)
	}
	s.get("/c").want(t, 200, "/c -\n")
	s.settled(before)
	s.stop()
}

// Full pipes hold nothing up but their own request, and lose nothing.
func TestFullPipes(t *testing.T) {
	dir := newDir(t, nil)
	s := start(t, "-cgi", "-max-procs", "4", "--", script(t, dir, "cat", `
case $PATH_INFO in
/deaf) echo Content-Type: text/plain; echo; exec sleep 0.3 ;;
/both) echo Content-Type: application/octet-stream; echo; exec cat ;;
esac
echo Content-Type: text/plain; echo; echo ok`))
	body := make([]byte, 8<<20)
	for i := range body {
		body[i] = byte(i * i >> 8)
	}
	want := sha256.Sum256(body)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			// The command writes while it reads, the client reads late.
			c := dial(t, s.addr)
			c.trySend("POST /both HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n")
			go c.Write(body)
			time.Sleep(300 * time.Millisecond)
			resp, err := http.ReadResponse(c.r, &http.Request{Method: "POST"})
			if err != nil {
				t.Error(err)
				return
			}
			h := sha256.New()
			if n, err := io.Copy(h, resp.Body); err != nil || [32]byte(h.Sum(nil)) != want {
				t.Errorf("%d bytes, %v: not what was sent", n, err)
			}
		})
	}
	wg.Go(func() {
		c := dial(t, s.addr)
		defer c.Close()
		c.trySend("POST /deaf HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n")
		go c.Write(body)
		c.answer("POST").want(t, 200, "")
	})
	time.Sleep(100 * time.Millisecond)
	s.get("/").want(t, 200, "ok\n")
	wg.Wait()
	s.stop()
}
