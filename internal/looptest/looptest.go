// Package looptest has helpers for tests of packages that run processes on an
// event loop.
package looptest

import (
	"bytes"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	Bound = 60 * time.Second      // tests do not wait longer for an event
	Never = time.Hour             // for timeouts that must not expire during a test
	Soon  = 10 * time.Millisecond // for timeouts that must expire
)

// Alone runs f in a process of its own, because children, descriptors and limits
// belong to a whole process. The prefix is a command that executes the rest of its
// arguments.
func Alone(t *testing.T, f func(t *testing.T), prefix ...string) {
	t.Helper()
	if os.Getenv("OW_ALONE") == t.Name() {
		f(t)
		return
	}
	t.Parallel()
	only := "^" + strings.ReplaceAll(regexp.QuoteMeta(t.Name()), "/", "$/^") + "$"
	args := append(prefix, os.Args[0], "-test.run="+only, "-test.v", "-test.timeout=5m")
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "OW_ALONE="+t.Name())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, reason, ok := bytes.Cut(out, []byte("--- SKIP")); ok {
		t.Skipf("%s", reason)
	}
}

// Eventually polls until ok returns true. It is for conditions without an event.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(Bound); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("timeout: %s", what)
		}
	}
}

// Do calls f on a loop, given by its Post method, and waits until f returns.
func Do(post func(func()), f func()) {
	done := make(chan struct{})
	post(func() { f(); close(done) })
	select {
	case <-done:
	case <-time.After(Bound):
		panic("the loop is blocked")
	}
}

// Dir makes a temporary directory. The paths of t.TempDir can be too long for
// sockets.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ow")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// Log is a buffer for log records.
type Log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
