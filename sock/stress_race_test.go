//go:build stress

package sock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// In these tests processes race each other, to find an order that race_test.go
// does not cover. They may fail on a slow machine.

func init() { roles["race"] = childRace }

// childRace listens, and makes sure that no other process does.
func childRace(ctx context.Context, path string) error {
	for range 3 {
		l, err := Config{Perms: mode(0o600), LockWait: never}.Listen(ctx, Addr{Unix, path})
		if err != nil {
			return err
		}
		claim := filepath.Join(filepath.Dir(path), "claim")
		if err := os.Mkdir(claim, 0o700); err != nil {
			return fmt.Errorf("not alone: %w", err)
		}
		c, err := net.Dial("unix", path)
		if err != nil {
			return err
		}
		c.Close()
		if err := os.Remove(claim); err != nil {
			return err
		}
		if err := l.Close(); err != nil {
			return err
		}
	}
	return nil
}

func TestStressRacingStarts(t *testing.T) {
	const rounds, starts = 40, 24
	begun := time.Now()
	for range rounds {
		path := filepath.Join(tempDir(t), "s")
		leftover(t, path, 0o755)
		var children []*child
		for range starts {
			children = append(children, start(t, "race", path, nil))
		}
		for i, c := range children {
			if out, err := c.end(); err != nil {
				t.Fatalf("child %d: %s, %v", i, out, err)
			}
		}
		if exists(path) {
			t.Fatal("the file exists after all have exited")
		}
	}
	t.Logf("%d processes served three times each, alone, in %v", rounds*starts, time.Since(begun).Round(time.Second))
}

// Servers are killed at any moment while others start.
func TestStressKilled(t *testing.T) {
	const rounds = 200
	path := filepath.Join(tempDir(t), "s")
	var next *child
	for i := range rounds {
		c := next
		if c == nil {
			c = start(t, "server", path, nil, "SOCK_TEST_REPORT=listening")
		}
		if i%2 == 0 {
			c.at(t, "listening")
		}
		next = start(t, "server", path, nil, "SOCK_TEST_REPORT=listening")
		c.Process.Kill()
		c.Wait()
	}
	next.at(t, "listening")
	answers(t, path, next)
	stop(t, next)
	if exists(path) {
		t.Error("the file exists after the stop")
	}
	t.Logf("%d servers killed", rounds)
}

// Listen waits for the lock for 5 s by default.
func TestStressLockWait(t *testing.T) {
	path := filepath.Join(tempDir(t), "s")
	listen(t, path, mode(0o600))
	t.Log("this may fail because the machine is slow or busy: a time is asserted")
	begun := time.Now()
	_, err := Listen(t.Context(), Addr{Unix, path}, mode(0o600))
	took := time.Since(begun)
	t.Logf("returned after %v: %v", took, err)
	if !errors.Is(err, ErrLocked) || took < lockWait || took > 2*lockWait {
		t.Error("want ErrLocked after 5 s")
	}
}

// A client sends requests all the time while servers restart.
func TestStressRestart(t *testing.T) {
	const rounds = 50
	path := filepath.Join(tempDir(t), "s")
	old := server(t, path, "listening")
	servers := []*child{old}
	quit := make(chan struct{})
	var pids []string
	var client sync.WaitGroup
	client.Go(func() {
		for {
			select {
			case <-quit:
				return
			default:
			}
			pid, err := get(path, "/pid")
			switch {
			case err == nil:
				pids = append(pids, pid)
			case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
				// No server at the moment.
			case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
				// The connection was in the queue when the socket was closed.
			default:
				t.Errorf("a client: %v", err)
			}
		}
	})
	for range rounds {
		next := start(t, "server", path, nil, "SOCK_TEST_REPORT=listening")
		old.Process.Signal(unix.SIGTERM)
		if out, err := old.end(); err != nil || out != "" {
			t.Errorf("stop: %q, %v", out, err)
		}
		next.at(t, "listening")
		answers(t, path, next)
		servers, old = append(servers, next), next
	}
	close(quit)
	client.Wait()
	t.Logf("%d answers over %d restarts", len(pids), rounds)
	pids = slices.Compact(pids)
	for _, c := range servers {
		if len(pids) > 0 && pids[0] == fmt.Sprint(c.Process.Pid) {
			pids = pids[1:]
		}
	}
	if len(pids) > 0 {
		t.Errorf("an answer from %s after that of a successor", pids[0])
	}
	stop(t, old)
	if exists(path) {
		t.Error("the file exists after the stop")
	}
}
