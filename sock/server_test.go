package sock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// These tests run the server of the package example, an http.Server in a
// process of its own that knows nothing of locks and files.

// request sends one on a connection of its own, and returns when an answer has
// begun.
func request(path, url string) (*http.Response, error) {
	client := http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", path) },
	}}
	return client.Get("http://unix" + url)
}

func ask(path, url string) (string, error) {
	resp, err := request(path, url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// await waits until one of the servers answers, and returns which.
func await(t *testing.T, path string, servers ...*child) int {
	t.Helper()
	var pid string
	var err error
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		pid, err = ask(path, "/pid")
		if err != nil {
			continue
		}
		for i, c := range servers {
			if fmt.Sprint(c.Process.Pid) == pid {
				return i
			}
		}
	}
	t.Fatalf("no answer: pid %q, %v", pid, err)
	return -1
}

// stop ends a server as its administrator would, and returns what it had to say.
func stop(t *testing.T, c *child) {
	t.Helper()
	if err := c.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if out, err := c.end(); err != nil || out != "" {
		t.Errorf("stop: %q, %v", out, err)
	}
}

func lstat(t *testing.T, path string) os.FileInfo {
	t.Helper()
	fi, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi
}

func TestServerKilled(t *testing.T) {
	t.Parallel()
	path := filepath.Join(tempDir(t), "s")
	for range 3 {
		c := start(t, "server", path, "", nil)
		await(t, path, c)
		c.Process.Kill()
		c.Wait()
		if _, err := net.Dial("unix", path); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("not a leftover file: %v", err)
		}
	}
	c := start(t, "server", path, "", nil)
	await(t, path, c)
	stop(t, c)
	if exists(path) {
		t.Error("file there after the stop")
	}
}

func TestServerRace(t *testing.T) {
	t.Parallel()
	path := filepath.Join(tempDir(t), "s")
	leftover(t, path, 0o755) // which each of them would remove
	both := []*child{start(t, "server", path, "", nil), start(t, "server", path, "", nil)}
	first := await(t, path, both...)
	fi := lstat(t, path)
	out, err := both[1-first].end()
	var ms int
	if _, serr := fmt.Sscanf(out, "in use after %d", &ms); serr != nil || err != nil {
		t.Errorf("the second: %q, %v", out, err)
	}
	if ms < 5000 || ms > 10000 {
		t.Errorf("the second waited for %d ms, Listen promises 5000", ms)
	}
	if i := await(t, path, both...); i != first || !os.SameFile(fi, lstat(t, path)) {
		t.Error("the first is not what it was")
	}
	stop(t, both[first])
	if exists(path) {
		t.Error("file there after the stop")
	}
}

// A stopped server answers its last request when its successor has already
// begun, while another client asks on and on.
func TestServerRestart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(tempDir(t), "s")
	servers := []*child{start(t, "server", path, "", nil)}
	await(t, path, servers...)

	quit, done := make(chan struct{}), make(chan []string, 1)
	go func() {
		var pids []string
		for {
			select {
			case <-quit:
				done <- pids
				return
			default:
			}
			pid, err := ask(path, "/pid")
			switch {
			case err == nil:
				pids = append(pids, pid)
			case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
				// Between the two.
			case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
				// It was in the queue when that was closed.
			default:
				t.Errorf("a client: %v", err)
			}
			time.Sleep(time.Millisecond)
		}
	}()

	for round := range 6 {
		old := servers[round]
		slow, err := request(path, "/slow")
		if err != nil {
			t.Fatal(err)
		}
		// In every other round the successor is already waiting.
		var next *child
		if round%2 == 0 {
			next = start(t, "server", path, "", nil)
			time.Sleep(100 * time.Millisecond)
		}
		if err := old.Process.Signal(unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if next == nil {
			next = start(t, "server", path, "", nil)
		}
		servers = append(servers, next)
		await(t, path, next)
		fi := lstat(t, path)
		if err := old.Process.Signal(unix.SIGUSR1); err != nil { // which ends the slow request
			t.Fatalf("the predecessor is gone: %v", err)
		}
		if out, err := old.end(); err != nil || out != "" {
			t.Errorf("round %d: stop: %q, %v", round, out, err)
		}
		body, err := io.ReadAll(slow.Body)
		slow.Body.Close()
		if want := fmt.Sprint("begun ", old.Process.Pid); err != nil || string(body) != want {
			t.Errorf("round %d: the last request was answered %q, %v, not %q", round, body, err, want)
		}
		if !exists(path) || !os.SameFile(fi, lstat(t, path)) {
			t.Fatalf("round %d: the successor's file was removed", round)
		}
		await(t, path, next)
	}
	close(quit)
	pids := slices.Compact(<-done)
	t.Logf("answers from %v", pids)
	if len(pids) < 2 {
		t.Error("the client had too few answers")
	}
	for _, c := range servers {
		if len(pids) > 0 && pids[0] == fmt.Sprint(c.Process.Pid) {
			pids = pids[1:]
		}
	}
	if len(pids) > 0 {
		t.Errorf("an answer from %s after that of a successor", pids[0])
	}
	stop(t, servers[len(servers)-1])
	if exists(path) {
		t.Error("file there after the stop")
	}
}

// What another program has put at the path is never removed: not at a start, and
// not at a stop.
func TestServerOther(t *testing.T) {
	t.Parallel()
	path := filepath.Join(tempDir(t), "s")
	c := start(t, "server", path, "", nil)
	await(t, path, c)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	other := start(t, "other", path, "", nil)
	other.line(t)
	fi := lstat(t, path)
	still := func(when string) {
		t.Helper()
		if !exists(path) || !os.SameFile(fi, lstat(t, path)) {
			t.Fatalf("the other program's file was removed %s", when)
		}
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		conn.Close()
	}
	stop(t, c)
	still("at the stop")

	out, err := start(t, "server", path, "", nil).end()
	if !strings.HasPrefix(out, "in use after ") || err != nil {
		t.Errorf("start: %q, %v", out, err)
	}
	still("at the start")

	// Nor what is no socket.
	other.end()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err = start(t, "server", path, "", nil).end()
	if !strings.Contains(out, ErrNotSocket.Error()) || err == nil {
		t.Errorf("start: %q, %v", out, err)
	}
	if data, err := os.ReadFile(path); string(data) != "precious" {
		t.Errorf("a file holds %q, %v", data, err)
	}
}

// On FreeBSD the server is in capability mode, and holds no descriptor that is
// good for more than serving and stopping.
func TestServerPowers(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	path := filepath.Join(dir, "s")
	c := start(t, "server", path, "", nil)
	await(t, path, c)
	peer, err := ask(path, "/peer")
	t.Logf("peer %s", peer)
	unknown := fmt.Sprintf("%d -1 <nil>", os.Geteuid())
	if want := fmt.Sprintf("%d %d <nil>", os.Geteuid(), os.Getpid()); err != nil || peer != want && peer != unknown {
		t.Errorf("peer %q, want %q, %v", peer, want, err)
	}
	s, err := ask(path, "/powers")
	t.Log(s)
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("system %s confined %v\n", runtime.GOOS, runtime.GOOS == "freebsd"); !strings.HasPrefix(s, want) {
		t.Errorf("want %q", want)
	} else if runtime.GOOS == "freebsd" && s != want {
		t.Error("want no line of what worked")
	} else if runtime.GOOS != "freebsd" && !strings.Contains(s, "made a file") {
		t.Error("the tries prove nothing")
	}
	stop(t, c)
	if exists(path) {
		t.Error("file there after the stop")
	}
}
