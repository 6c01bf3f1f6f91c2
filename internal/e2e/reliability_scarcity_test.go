//go:build linux

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// wantBusy checks a refusal with Retry-After.
func (a *answer) wantBusy(t *testing.T) {
	t.Helper()
	a.wantStatus(t, 503)
	if a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
}

// Without descriptors, memory for the command, or the command itself, requests
// are refused, fail or wait. No restart is necessary.
func TestScarcity(t *testing.T) {
	t.Parallel()
	needRoot(t, "it sets the limits of processes that are closed to their own user")
	path := script(t, newDir(t, nil), "command", "[ $PATH_INFO = /small ] && ulimit -v 100; exec "+trueProgram+"\n")
	s := start(t, "--", path)
	s.errorsExpected = true
	before := len(descriptors(t, s.pid))
	t.Run("descriptors", func(t *testing.T) {
		s.setLimit(s.pid, unix.RLIMIT_NOFILE, 3)
		s.get("/").wantBusy(t)
		s.await("command cannot be started")
		s.setLimit(s.pid, unix.RLIMIT_NOFILE, noLimit)
		s.get("/").want(t, 200, "")

		s.setLimit(s.core, unix.RLIMIT_NOFILE, 3)
		waiting := dial(t, s.addr).send("%s", get11("/"))
		s.await("cannot accept")
		s.setLimit(s.core, unix.RLIMIT_NOFILE, noLimit)
		waiting.answer("GET").want(t, 200, "")
	})
	t.Run("command", func(t *testing.T) {
		os.Rename(path, path+".away")
		s.get("/").wantStatus(t, 502)
		if r := s.awaitN(2, "command cannot be started"); !strings.Contains(r["error"], "no such file") {
			t.Errorf("record %v", r)
		}
		os.Rename(path+".away", path)
		s.get("/").want(t, 200, "")
	})
	t.Run("memory", func(t *testing.T) {
		s.get("/small").wantStatus(t, 500)
		if r := s.await("command failed"); !strings.HasPrefix(r["exit"], "signal ") {
			t.Errorf("%v, want a death by a signal", r)
		}
		s.get("/").want(t, 200, "")
	})
	if st := s.status(); st["restarts"] != "0" {
		t.Errorf("the core was started again: %v", st)
	}
	s.settled(before)
	s.stop()
}

// stranger is an ordinary user without other processes.
func stranger() *syscall.Credential {
	return &syscall.Credential{Uid: 64000 + uint32(os.Getpid()%1000), Gid: 65534, NoSetGroups: true}
}

// If no process can be started, requests are refused, and a core that dies
// meanwhile does not end the service. Both work when there are processes again.
func TestNoProcesses(t *testing.T) {
	t.Parallel()
	needRoot(t, "it starts onewake as another user, with limits")
	s := launch{cred: stranger(), args: []string{"--", trueProgram}}.start(t)
	s.errorsExpected = true
	s.setLimit(s.pid, unix.RLIMIT_NPROC, 1)
	s.get("/").wantBusy(t)
	s.await("command cannot be started")
	syscall.Kill(s.core, syscall.SIGKILL)
	// Three failures of another kind would have ended the service.
	s.awaitN(3, "cannot start a core")
	s.status()
	s.setLimit(s.pid, unix.RLIMIT_NPROC, noLimit)
	s.get("/").want(t, 200, "")
	s.stop()
}

// A request is refused if there is no space for its body.
func TestNoRoomToSpool(t *testing.T) {
	t.Parallel()
	dir := mount(t, "size=4m")
	s := start(t, "-spool-dir", dir, "--", "wc", "-c")
	s.errorsExpected = true
	chunked := func(size int) *answer {
		c := dial(t, s.addr)
		defer c.Close()
		c.trySend("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
		const piece = 32 << 10
		for range size / piece {
			c.trySend(fmt.Sprintf("%x\r\n%s\r\n", piece, strings.Repeat("x", piece)))
		}
		return c.trySend("0\r\n\r\n").answer("POST")
	}
	fill := filepath.Join(dir, "fill")
	if err := os.WriteFile(fill, bytes.Repeat([]byte{1}, 3<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	chunked(3 << 20).wantBusy(t)
	if r := s.await("cannot store a request body"); !strings.Contains(r["error"], "no space left on device") {
		t.Errorf("record %v", r)
	}
	// A request that needs no file is served.
	chunked(32<<10).want(t, 200, "32768\n")
	os.Remove(fill)
	chunked(3<<20).want(t, 200, "3145728\n")
	// The answer comes first.
	eventually(t, "an empty file system", func() bool {
		var st unix.Statfs_t
		return unix.Statfs(dir, &st) == nil && st.Bfree == st.Blocks
	})
	s.stop()
}
