//go:build stress

package testpage

import (
	"bytes"
	"net"
	"path/filepath"
	"testing"

	"github.com/onewake/onewake/http1"
)

// TestAllocates nothing for a request on a kept connection; not parallel, since
// other tests allocate too.
func TestAllocates(t *testing.T) {
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	s := &http1.Server{
		Handler: page().Serve,
		Admit:   func(net.Conn, *http1.Listener) (http1.Peer, bool) { return http1.Peer{Addr: "<unix>", UID: 7}, true },
	}
	go s.Serve(&http1.Listener{Listener: ln, Name: "unix:/x", Host: "host.test", Port: "0", Unix: true})
	defer s.Stop()
	c, err := net.Dial("unix", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	request, answer := []byte("GET / HTTP/1.1\r\nHost: h\r\nX-Request-Id: x\r\nAccept: */*\r\n\r\n"), make([]byte, 8<<10)
	n := testing.AllocsPerRun(2000, func() {
		c.Write(request)
		if n, err := c.Read(answer); err != nil || !bytes.HasPrefix(answer[:n], []byte("HTTP/1.1 200")) {
			t.Fatalf("%q, %v", answer[:n], err)
		}
	})
	if n > 0 && !raceDetector {
		t.Errorf("%v allocations for a request", n)
	}
}
