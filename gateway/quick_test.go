//go:build stress

package gateway

import (
	"strings"
	"testing"
	"time"
)

// TestQuickAndSlow mixes commands that are over at once with slow ones: what
// the gateway has learnt from the former must not spoil the latter.
func TestQuickAndSlow(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	c := r.dial()
	quick, slow, fail := r.script("printf q"), r.script("printf s; sleep .03; printf low"), r.script("exit 1")
	big := r.script("head -c 200000 /dev/zero; sleep .01")
	for i := range 20 {
		for _, s := range []struct {
			path   string
			status int
			length int
		}{{quick, 200, 1}, {quick, 200, 1}, {slow, 200, 4}, {fail, 500, -1}, {quick, 200, 1}, {big, 200, 200000}} {
			c.send(request("GET", s.path))
			resp, body, err := c.answer("GET")
			if err != nil || resp.StatusCode != s.status || s.length >= 0 && len(body) != s.length {
				t.Fatalf("%d: %v, %d bytes, %v", i, resp, len(body), err)
			}
		}
	}
}

// TestQuickCGI asks commands that are taken for quick, whether they are or not.
func TestQuickCGI(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(g *Gateway) { g.CGI = true })
	c := r.dial()
	answer := r.script(`printf 'X: y\n\nhello'`)
	for i := range 20 {
		for _, s := range []struct {
			path   string
			status int
			body   string
		}{
			{answer, 200, "hello"},
			{r.script(`printf 'Location: ` + answer + `\n\nignored'`), 200, "hello"},
			{r.script(`exit 1`), 502, ""},
			{r.script(`printf 'X: y\n'`), 502, ""},
			{r.script(`printf 'X: y\n\nhe'; sleep .03; printf llo`), 200, "hello"},
			{r.script(`printf 'X: y\n\n'; head -c 200000 /dev/zero`), 200, strings.Repeat("\x00", 200000)},
		} {
			r.quick.Store(true)
			c.send(request("GET", s.path))
			resp, body, err := c.answer("GET")
			if s.status == 502 && err == nil && resp.StatusCode == 502 {
				continue
			}
			if err != nil || resp.StatusCode != s.status || body != s.body {
				t.Fatalf("%d, %s: %v, %d bytes, %v", i, s.path, resp, len(body), err)
			}
		}
	}
}

// TestQuickBody: a command with a body gets it at once, even if it is taken for
// quick: it would wait for its body, and its body for the news of its start.
func TestQuickBody(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	c := r.dial()
	path := r.script("cat")
	// The least of many tries is what a busy machine does not add to.
	least := map[bool]time.Duration{true: time.Hour, false: time.Hour}
	for i := 0; i < 40 || least[true] > least[false]+quickTime/2; i++ {
		if i == 800 {
			t.Fatalf("%v at least, %v if it is not taken for quick", least[true], least[false])
		}
		quick := i%2 == 0
		r.quick.Store(quick)
		began := time.Now()
		c.send("POST " + path + " HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello")
		if _, body, err := c.answer("POST"); err != nil || body != "hello" {
			t.Fatalf("%q, %v", body, err)
		}
		least[quick] = min(least[quick], time.Since(began))
	}
}
