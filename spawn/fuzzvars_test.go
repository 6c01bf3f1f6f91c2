//go:build linux || freebsd

package spawn_test

import (
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/onewake/onewake/gateway"
	"github.com/onewake/onewake/http1"
	"github.com/onewake/onewake/spawn"
)

// FuzzVars: whatever variables the core makes of a request, the monitor takes
// them; so a client cannot get a core ended for a breach.
func FuzzVars(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
		"GET /%41%2f%ff?a=%00 HTTP/1.1\r\nHost: h\r\nX_Y: a\r\nX-Y: b\r\nx-y: c\r\nProxy: e\r\n\r\n",
		"GET http://a/b HTTP/1.0\r\nCookie: a\r\nCOOKIE: b\r\nContent-Type: x\r\nContent-Type: y\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: h\r\nConnection: X-A, te\r\nX-A: 1\r\nX-Real-IP: ::1%zone\r\nX-Forwarded-For: a, 1.2.3.4\r\nX-Forwarded-Host: [::1]:80\r\nX-Forwarded-Proto: https\r\n\r\n",
		"POST /%00 HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n-: x\r\n---: y\r\nA: \xff\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: h\r\nA: " + strings.Repeat("x", 4000) + "\r\na: " + strings.Repeat("y", 4000) + "\r\n\r\n",
	} {
		f.Add([]byte(s), true)
	}
	dir, err := os.MkdirTemp("", "ow")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { os.RemoveAll(dir) })
	ln, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		f.Fatal(err)
	}
	var believe atomic.Bool
	problems := make(chan string, 100)
	s := &http1.Server{
		Admit: func(net.Conn, *http1.Listener) (http1.Peer, bool) { return http1.Peer{Addr: "<unix>"}, true },
		Handler: func(x *http1.Exchange) {
			m := gateway.Meta{Software: "onewake/fuzz"}
			if believe.Load() {
				m.Forwarded = gateway.XRealIP | gateway.XForwardedFor | gateway.XForwardedHost | gateway.XForwardedProto | gateway.XRequestID
			}
			var v spawn.Vars
			if perr := m.Fill(&v, x); perr != nil {
				x.Error(perr.Status, perr.Reason)
				return
			}
			names := make(map[string]bool)
			for _, one := range bytes.Split(bytes.TrimSuffix(v.Bytes(), []byte{0}), []byte{0}) {
				name, _, _ := bytes.Cut(one, []byte("="))
				if names[string(name)] {
					problems <- "twice: " + string(one)
				}
				names[string(name)] = true
			}
			if env, err := spawn.CheckVars(v.Bytes()); err != nil || len(env) != len(names) {
				problems <- "refused by the monitor"
			}
			x.Answer(200, "", nil)
		},
	}
	go s.Serve(&http1.Listener{Listener: ln, Host: "h", Port: "0", Unix: true})
	f.Cleanup(s.Stop)
	f.Fuzz(func(t *testing.T, b []byte, b2 bool) {
		believe.Store(b2)
		c, err := net.Dial("unix", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write(b); err == nil {
			c.(*net.UnixConn).CloseWrite()
			io.Copy(io.Discard, c) // all of it has been handled then
		}
		select {
		case p := <-problems:
			t.Fatal(p)
		default:
		}
	})
}
