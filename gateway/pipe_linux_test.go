//go:build stress

package gateway

import (
	"fmt"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLargePipe: after a command with much to say the next one finds a larger
// pipe, one with little to say does not make the next one's larger.
func TestLargePipe(t *testing.T) {
	t.Parallel()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3")
	}
	r := newRig(t, nil)
	// The pipe grows when the core has heard of the start.
	size := r.script(fmt.Sprintf(`exec %s -c 'import fcntl, time
for i in range(200):
    n = fcntl.fcntl(1, %d)
    if n > 65536: break
    time.sleep(.001)
print(n)'`, python, unix.F_GETPIPE_SZ))
	c := r.dial()
	for i, tt := range []struct {
		path string
		want string // empty: anything
	}{
		{size, "65536\n"}, {r.script("head -c 1000000 /dev/zero"), ""}, {size, fmt.Sprintln(streamPipe)}, {size, "65536\n"},
	} {
		c.send(request("GET", tt.path))
		if resp, body, err := c.answer("GET"); err != nil || resp.StatusCode != 200 || tt.want != "" && body != tt.want {
			t.Errorf("%d: %v, %.40q, %v; want %q", i, resp, body, err, tt.want)
		}
	}
}
