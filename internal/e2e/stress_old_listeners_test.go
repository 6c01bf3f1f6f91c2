//go:build stress && linux

package e2e

import (
	"bufio"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A core that has been taken over gives its listeners away, or breaks the
// protocol when it has been replaced.

var _ = func() bool {
	maps.Copy(plans, map[string]func(*taken){
		// Behaves until it has been replaced, and is told to misbehave.
		"afterwards": func(c *taken) {
			c.awaitRetire()
			for {
				if _, err := os.Stat(filepath.Join(c.dir, "go")); err == nil {
					break
				}
				time.Sleep(5 * time.Millisecond)
			}
			// Counters are the answer to the last question, then its last
			// word, and then unasked.
			for range 3 {
				c.say(kindStats, 0, strings.Repeat("\x00", 48))
			}
		},
		// Hands a copy of the listener to the first client, then gives itself
		// away.
		"leak": func(c *taken) {
			for {
				fd, _, err := unix.Accept(coreFirst)
				if err == unix.EAGAIN {
					time.Sleep(time.Millisecond)
					continue
				}
				if err != nil {
					os.Exit(1)
				}
				unix.Sendmsg(fd, []byte("take this"), unix.UnixRights(coreFirst, coreFirst+1), nil, 0)
				time.Sleep(100 * time.Millisecond)
				break
			}
			c.say(99, 0, "")
		},
	})
	return true
}()

// A core that misbehaves only once it has been replaced takes its successor's
// listeners away, since they are the ones it had; nobody whom that one had begun
// to answer is cut off.
func TestHostileCoreAfterReload(t *testing.T) {
	for _, reloading := range []bool{false, true} {
		t.Run(map[bool]string{false: "at rest", true: "beside another reload"}[reloading], func(t *testing.T) {
			t.Parallel()
			h := hijack(t, "-timeout", "30s", "--", script(t, newDir(t, nil), "echo", echoText))
			hostile := h.take("afterwards")
			h.signal(syscall.SIGHUP)
			successor, _ := strconv.Atoi(h.await("core replaced", "old", strconv.Itoa(hostile))["core"])
			slow := dial(t, h.addr).send("%s", get11("/slow?sleep=2"))
			kept := dial(t, h.addr).send("%s", text11("GET", "/kept"))
			kept.answer("GET").want(t, 200, "/kept -\n")
			eventually(t, "a slow request", func() bool { return h.status()["running"] == "1" })
			standby := 0
			if reloading {
				if err := writeProgram(h.bin, []byte("#!/bin/sh\nexec sleep 100\n"), 0o755); err != nil {
					t.Fatal(err)
				}
				h.signal(syscall.SIGHUP)
				eventually(t, "a core that is never ready", func() bool {
					for _, pid := range childrenOf(h.pid) {
						if b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); strings.HasPrefix(string(b), "sleep\x00") {
							standby = pid
						}
					}
					return standby > 0
				})
				if err := replace(h.bin, underTest); err != nil {
					t.Fatal(err)
				}
			}
			old := inode(t, h.path)
			os.WriteFile(filepath.Join(filepath.Dir(h.bin), "go"), nil, 0o644)
			h.await("breach by core", "core", strconv.Itoa(hostile))
			eventually(t, "a new socket", func() bool {
				var st unix.Stat_t
				return unix.Lstat(h.path, &st) == nil && st.Ino != old
			})
			awaitServing(t, h.addr) // it is bound a moment before it listens
			// Whoever comes now is served by another one yet.
			h.get("/after").want(t, 200, "/after -\n")
			if core := h.currentCore(); core == successor || core == standby || !executes(core, h.bin) {
				t.Errorf("core %d serves, after %d and %d", core, hostile, successor)
			}
			awaitGone(t, hostile)
			if reloading {
				awaitGone(t, standby)
				if n := len(h.find("core is not ready in time")); n > 0 {
					t.Error("the standby was waited for")
				}
			}
			slow.answer("GET").want(t, 200, "/slow -\n")
			kept.trySend(text11("GET", "/kept")).answer("GET").want(t, 200, "/kept -\n")
			awaitGone(t, successor)
			if n := len(h.find("core died", "core", strconv.Itoa(successor))); n > 0 {
				t.Error("the successor was killed in place of retired")
			}
			h.stop()
		})
	}
}

// A client that a hostile core has given a copy of the listener gets no more
// clients once the breach is known.
func TestLeakedListener(t *testing.T) {
	h := hijack(t, "--", trueProgram)
	h.take("leak")
	// The first may be one that the core before it has let in.
	var msgs []unix.SocketControlMessage
	for range 10 {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := unix.Connect(fd, &unix.SockaddrUnix{Name: h.path}); err != nil {
			t.Fatal(err)
		}
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2})
		oob := make([]byte, 64)
		_, n, _, _, err := unix.Recvmsg(fd, make([]byte, 64), oob, unix.MSG_CMSG_CLOEXEC)
		if err == nil && n > 0 {
			if msgs, err = unix.ParseSocketControlMessage(oob[:n]); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	if len(msgs) != 1 {
		t.Fatalf("%d messages with descriptors", len(msgs))
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 2 {
		t.Fatal(fds, err)
	}
	leaked, lock := fds[0], fds[1]
	defer unix.Close(leaked)
	unix.SetNonblock(leaked, true)
	old := inode(t, h.path)
	h.await("breach by core")
	eventually(t, "a new socket", func() bool {
		var st unix.Stat_t
		return unix.Lstat(h.path, &st) == nil && st.Ino != old
	})
	awaitServing(t, h.addr)
	for {
		// Whoever connected before.
		if c, _, err := unix.Accept(leaked); err == nil {
			unix.Close(c)
			continue
		}
		break
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 25 {
				c, err := dialErr(h.addr)
				if err != nil {
					t.Error(err)
					return
				}
				cl := &conn{Conn: c, t: t, r: bufio.NewReader(c)}
				cl.trySend(get11("/"))
				if a, err := cl.tryAnswer("GET"); err != nil || a.status != 200 {
					t.Errorf("%v, %v", a, err)
				}
				c.Close()
			}
		})
	}
	wg.Wait()
	if c, _, err := unix.Accept(leaked); err != unix.EAGAIN {
		unix.Close(c)
		t.Errorf("accept(2) on the leaked listener: %v, want EAGAIN", err)
	}
	// The copy of the lock keeps nobody out: a stop gives it back for all.
	defer unix.Close(lock)
	h.stop()
	again := launch{dir: h.dir, args: []string{"-listen", "unix:" + h.path, "--", trueProgram}}
	s := again.start(t)
	s.stop()
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}
