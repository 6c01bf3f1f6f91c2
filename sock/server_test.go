package sock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// These tests run the http.Server of the package example in a process of its own.

// server starts a server and waits until it is at a step.
func server(t *testing.T, path, at string) *child {
	t.Helper()
	c := start(t, "server", path, nil, "SOCK_TEST_REPORT=waiting,listening")
	c.at(t, at)
	return c
}

// request sends a request on a new connection and returns when the answer begins.
func request(path, url string) (*http.Response, error) {
	client := http.Client{Timeout: hang, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", path) },
	}}
	return client.Get("http://unix" + url)
}

func get(path, url string) (string, error) {
	resp, err := request(path, url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// answers makes sure that this server answers.
func answers(t *testing.T, path string, c *child) {
	t.Helper()
	if pid, err := get(path, "/pid"); err != nil || pid != fmt.Sprint(c.Process.Pid) {
		t.Fatalf("answered by %q, want %d, %v", pid, c.Process.Pid, err)
	}
}

// stop stops a server by SIGTERM.
func stop(t *testing.T, c *child) {
	t.Helper()
	if err := c.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if out, err := c.end(); err != nil || out != "" {
		t.Errorf("stop: %q, %v", out, err)
	}
}

func TestServerKilled(t *testing.T) {
	t.Parallel()
	path := filepath.Join(tempDir(t), "s")
	for range 2 {
		c := server(t, path, "listening")
		answers(t, path, c)
		c.kill(t)
		if _, err := net.Dial("unix", path); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("the file is not a leftover: %v", err)
		}
	}
	c := server(t, path, "listening")
	answers(t, path, c)
	stop(t, c)
	if exists(path) {
		t.Error("the file exists after the stop")
	}
}

// A server that stops finishes its last answer while its successor already serves.
func TestServerRestart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(tempDir(t), "s")
	old := server(t, path, "listening")
	for _, waiting := range []bool{true, false} {
		slow, err := request(path, "/slow")
		if err != nil {
			t.Fatal(err)
		}
		var next *child
		if waiting {
			next = server(t, path, "waiting")
		}
		if err := old.Process.Signal(unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if waiting {
			next.at(t, "listening")
		} else {
			// It may have to wait or not.
			next = start(t, "server", path, nil, "SOCK_TEST_REPORT=listening")
			next.at(t, "listening")
		}
		answers(t, path, next)
		fi := file(t, path)
		if err := old.Process.Signal(unix.SIGUSR1); err != nil { // finishes the slow request
			t.Fatalf("the predecessor has exited: %v", err)
		}
		if out, err := old.end(); err != nil || out != "" {
			t.Errorf("stop: %q, %v", out, err)
		}
		body, err := io.ReadAll(slow.Body)
		slow.Body.Close()
		if want := fmt.Sprint("begun ", old.Process.Pid); err != nil || string(body) != want {
			t.Errorf("the last answer was %q, %v, want %q", body, err, want)
		}
		if !exists(path) || !os.SameFile(fi, file(t, path)) {
			t.Fatal("the successor's file was removed")
		}
		answers(t, path, next)
		old = next
	}
	stop(t, old)
	if exists(path) {
		t.Error("the file exists after the stop")
	}
}

// Another program's file at the path is never removed, neither by a start nor by a
// stop.
func TestServerOther(t *testing.T) {
	t.Parallel()
	path := filepath.Join(tempDir(t), "s")
	c := server(t, path, "listening")
	answers(t, path, c)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	other := start(t, "other", path, nil)
	other.at(t, "listening")
	fi := file(t, path)
	still := func(when string) {
		t.Helper()
		if !exists(path) || !os.SameFile(fi, file(t, path)) {
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

	out, err := start(t, "server", path, nil).end()
	if out != "in use" || err != nil {
		t.Errorf("start: %q, %v", out, err)
	}
	still("at the start")

	// The same for a regular file.
	other.end()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err = start(t, "server", path, nil).end()
	if !strings.Contains(out, ErrNotSocket.Error()) || err == nil {
		t.Errorf("start: %q, %v", out, err)
	}
	if data, err := os.ReadFile(path); string(data) != "precious" {
		t.Errorf("the file contains %q, %v", data, err)
	}
}

// On FreeBSD the server is in capability mode, and its descriptors have only the
// rights that it needs.
func TestServerRights(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	path := filepath.Join(dir, "s")
	c := server(t, path, "listening")
	peer, err := get(path, "/peer")
	if want := fmt.Sprintf("%d <nil>", os.Geteuid()); err != nil || peer != want {
		t.Errorf("peer %q, want %q, %v", peer, want, err)
	}
	s, err := get(path, "/rights")
	t.Log(s)
	if err != nil {
		t.Fatal(err)
	}
	if want := "system " + runtime.GOOS + "\n"; !strings.HasPrefix(s, want) {
		t.Errorf("want %q", want)
	} else if runtime.GOOS == "freebsd" && s != want {
		t.Error("want no more lines")
	} else if runtime.GOOS != "freebsd" && !strings.Contains(s, "created a file") {
		t.Error("the attempts prove nothing")
	}
	stop(t, c)
	if exists(path) {
		t.Error("the file exists after the stop")
	}
}
