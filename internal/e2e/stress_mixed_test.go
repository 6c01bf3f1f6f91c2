//go:build stress && (freebsd || linux)

package e2e

import (
	"fmt"
	"io"
	"sync"
	"testing"
	"time"
)

// Quick and slow commands, small and large output, and cut answers, on kept
// connections, many at once. No request gets the answer of another one.
func TestStressMixed(t *testing.T) {
	storm(t)
	t.Parallel()
	s := shell(t, `case $PATH_INFO in
/fail) echo secret; exit 1;;
/cut) head -c 200000 /dev/zero; exit 1;;
/large) head -c 150000 /dev/zero;;
/slow) sleep .03; echo "$QUERY_STRING";;
*) echo "$QUERY_STRING";; esac`, "-max-procs", "4")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			var c *conn
			for j := range count(12, 60) {
				if c == nil {
					c = dial(t, s.addr)
				}
				path := []string{"/quick", "/fail", "/slow", "/large", "/quick", "/cut"}[(i+j)%6]
				id := fmt.Sprintf("%d.%d", i, j)
				c.SetDeadline(time.Now().Add(patience))
				c.trySend(text11("GET", path+"?"+id))
				a, err := c.tryAnswer("GET")
				if err != nil {
					t.Errorf("%s: %v", path, err)
					return
				}
				ok := a.err == nil && a.status == 200
				switch path {
				case "/quick", "/slow":
					ok = ok && a.body == id+"\n"
				case "/large":
					ok = ok && len(a.body) == 150000
				case "/fail":
					ok = a.err == nil && a.status == 500
				case "/cut":
					ok = a.err == io.ErrUnexpectedEOF && a.status == 200
				}
				if !ok {
					t.Errorf("%s: got %d, %.100q, %v", path, a.status, a.body, a.err)
				}
				if a.err != nil {
					c.Close()
					c = nil
				}
			}
		})
	}
	wg.Wait()
	s.stop()
}
