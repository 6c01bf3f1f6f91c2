//go:build stress && linux

package e2e

import (
	"crypto/sha256"
	"io"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"
)

// Full pipes hold nothing up but their own request, and lose nothing.
func TestFullPipes(t *testing.T) {
	dir := newDir(t, nil)
	s := start(t, "-cgi", "-max-procs", "4", "--", script(t, dir, "cat", `
case $PATH_INFO in
/deaf) echo Content-Type: text/plain; echo; exec sleep 0.3 ;;
/both) echo Content-Type: application/octet-stream; echo; exec cat ;;
esac
echo Content-Type: text/plain; echo; echo ok`))
	body := make([]byte, 8<<20)
	for i := range body {
		body[i] = byte(i * i >> 8)
	}
	want := sha256.Sum256(body)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			// The command writes while it reads, the client reads late.
			c := dial(t, s.addr)
			c.trySend("POST /both HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n")
			go c.Write(body)
			time.Sleep(300 * time.Millisecond)
			resp, err := http.ReadResponse(c.r, &http.Request{Method: "POST"})
			if err != nil {
				t.Error(err)
				return
			}
			h := sha256.New()
			if n, err := io.Copy(h, resp.Body); err != nil || [32]byte(h.Sum(nil)) != want {
				t.Errorf("%d bytes, %v: not what was sent", n, err)
			}
		})
	}
	wg.Go(func() {
		c := dial(t, s.addr)
		defer c.Close()
		c.trySend("POST /deaf HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n")
		go c.Write(body)
		c.answer("POST").want(t, 200, "")
	})
	time.Sleep(100 * time.Millisecond)
	s.get("/").want(t, 200, "ok\n")
	wg.Wait()
	s.stop()
}
