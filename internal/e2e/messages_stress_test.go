//go:build stress && (freebsd || linux)

package e2e

import (
	"net"
	"runtime"
	"testing"
)

// A server that does not answer: -check says what takes it so long, and on
// standard error.
func TestMessageSlow(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	addr := "tcp4:" + ln.Addr().String()
	toFind := map[string]string{"freebsd": " (to find it: sockstat -l)", "linux": " (to find it: ss -lnp)"}[runtime.GOOS]
	want := "onewake: still asking the server at " + addr + " what it is, for 2 seconds at most\n" +
		"onewake: listen " + addr + ": address already in use: another server has it" + toFind + "\n"
	if r := run(t, "-check", "-listen", addr); r != (result{status: statusInUse, stderr: want}) {
		t.Errorf("%+v, want %q", r, want)
	}
}
