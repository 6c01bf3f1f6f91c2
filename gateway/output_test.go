package gateway

import (
	"io"
	"os"
	"testing"
)

// TestEndAfterStop: output that ends once the run is to be ended is no whole
// answer. The end of a body that did not come whole ends many a command, and
// its output, before it has been told to.
func TestEndAfterStop(t *testing.T) {
	for _, tt := range []struct {
		stop reason
		want error
	}{{none, io.EOF}, {clientGone, errStopped}} {
		for name, read := range map[string]func(*run) (int, error){
			"read":     func(r *run) (int, error) { return r.read(make([]byte, 1)) },
			"readMore": func(r *run) (int, error) { return r.readMore(make([]byte, 1), fullWait) },
		} {
			out, in, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			in.Close()
			if n, err := read(&run{stdout: out, stop: tt.stop}); n != 0 || err != tt.want {
				t.Errorf("%s, ended for %q: %d, %v, want %v", name, tt.stop, n, err, tt.want)
			}
			out.Close()
		}
	}
}
