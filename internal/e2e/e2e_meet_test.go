//go:build freebsd || linux

package e2e

import (
	"bufio"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// meeting is a directory with two named pipes for synchronization with
// commands. A command writes to "told", and reads a line from "go" before it
// continues:
//
//	echo $$ >told; read x <go
type meeting struct {
	t          *testing.T
	dir        string // for -dir
	told, gate *os.File
	in         *bufio.Reader
}

// meet makes a meeting for commands of this user.
func meet(t *testing.T, cred *syscall.Credential) *meeting {
	t.Helper()
	m := &meeting{t: t, dir: newDir(t, cred)}
	open := func(name string) *os.File {
		t.Helper()
		path := filepath.Join(m.dir, name)
		if err := unix.Mkfifo(path, 0o666); err != nil {
			t.Fatal(err)
		}
		os.Chmod(path, 0o666) // whatever the umask
		// Both ends are open, so that open(2) does not block.
		f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	m.told, m.gate = open("told"), open("go")
	m.in = bufio.NewReader(m.told)
	return m
}

// line waits for a line from a command.
func (m *meeting) line() string {
	m.t.Helper()
	m.told.SetReadDeadline(time.Now().Add(patience))
	text, err := m.in.ReadString('\n')
	if err != nil {
		m.t.Fatalf("no command has written anything: %q, %v", text, err)
	}
	return strings.TrimSuffix(text, "\n")
}

// pids waits for a line of n pids.
func (m *meeting) pids(n int) (pids []int) {
	m.t.Helper()
	line := m.line()
	for f := range strings.FieldsSeq(line) {
		pid, err := strconv.Atoi(f)
		if err != nil {
			break
		}
		pids = append(pids, pid)
	}
	if len(pids) != n {
		m.t.Fatalf("a command has written %q, want %d pids", line, n)
	}
	return pids
}

// rest returns what has been written and not read. It does not wait.
func (m *meeting) rest() string {
	m.t.Helper()
	text := make([]byte, m.in.Buffered())
	m.in.Read(text)
	raw, err := m.told.SyscallConn()
	if err != nil {
		m.t.Fatal(err)
	}
	raw.Read(func(fd uintptr) bool {
		var b [4096]byte
		n, _ := unix.Read(int(fd), b[:])
		text = append(text, b[:max(n, 0)]...)
		return true
	})
	return string(text)
}

// release lets n commands continue that read from "go".
func (m *meeting) release(n int) {
	m.t.Helper()
	if _, err := m.gate.WriteString(strings.Repeat("\n", n)); err != nil {
		m.t.Fatal(err)
	}
}

// ordinary is the user that a service should run as: nobody if root runs the
// tests.
func ordinary(t *testing.T) *syscall.Credential {
	if os.Geteuid() != 0 {
		return nil
	}
	return nobody(t)
}

// answers returns the answers on several connections in the order in which they
// arrive, nil for one that is cut.
func answers(conns ...*conn) <-chan *answer {
	ch := make(chan *answer, len(conns))
	for _, c := range conns {
		go func() {
			a, err := c.tryAnswer("GET")
			if err != nil {
				a = nil
			}
			ch <- a
		}()
	}
	return ch
}
