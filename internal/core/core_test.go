//go:build freebsd || linux

package core

import (
	"log/slog"
	"os"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/internal/control"
	"github.com/onewake/onewake/internal/process"
	"github.com/onewake/onewake/internal/scripts"
)

// TestFindNewScript checks that concurrent requests for a new script ask the monitor
// only once.
func TestFindNewScript(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	const n = 8
	var asking, all sync.WaitGroup
	asking.Add(n)
	asked := 0
	ended := make(chan error, 1)
	loop, err := process.NewLoop()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		runtime.LockOSThread()
		peer, err := control.NewPeer(pair[0], loop, nil, control.PeerOptions{Log: slog.New(slog.DiscardHandler)})
		if err == nil {
			peer.OnScripts = func() []string {
				asking.Wait()
				if asked++; asked > 1 {
					return nil // no changes
				}
				return []string{"new", "old"}
			}
			err = loop.Run()
		}
		ended <- err
	}()
	client, err := control.NewClient(os.NewFile(uintptr(pair[1]), "control"))
	if err != nil {
		t.Fatal(err)
	}
	go client.Run()
	c := &core{client: client}
	c.scripts.Store(&scripts.Names{"old"})
	for range n {
		all.Go(func() {
			asking.Done()
			if name, info, ok := c.Find("/new/x"); name != "new" || info != "/x" || !ok {
				t.Errorf("%q, %q, %t", name, info, ok)
			}
		})
	}
	all.Wait()
	if _, _, ok := c.Find("/none"); ok {
		t.Error("found a script that does not exist")
	}
	loop.Post(loop.Stop)
	if err := <-ended; err != nil || asked != 2 {
		t.Errorf("asked %d times, %v", asked, err)
	}
}
