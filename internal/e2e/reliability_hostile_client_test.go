//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// hidden is a request that a client hides in another one's body, or behind its
// end, hoping that two parsers disagree about which it is.
const hidden = "GET /hidden-000000 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

// vectors are requests whose end is doubtful, or whose fields are.
func vectors() map[string]string {
	post := func(body string, fields ...string) string {
		return "POST /first-000000 HTTP/1.1\r\nHost: x\r\n" + strings.Join(append(fields, ""), "\r\n") + "\r\n" + body
	}
	length := func(s string) string { return "Content-Length: " + strconv.Itoa(len(s)) }
	const te = "Transfer-Encoding: chunked"
	chunked := "5\r\nhello\r\n0\r\n\r\n"
	v := map[string]string{
		"plain":                       post("hello", length("hello")) + hidden,
		"chunked":                     post(chunked, te) + hidden,
		"length, then chunked":        post("0\r\n\r\n"+hidden, length("0\r\n\r\n"+hidden), te),
		"chunked, then length":        post("0\r\n\r\n"+hidden, te, length("0\r\n\r\n"+hidden)),
		"chunked longer than length":  post("5\r\nhello\r\n0\r\n\r\n", te, "Content-Length: 3") + hidden,
		"two lengths":                 post("hello"+hidden, "Content-Length: 5", length("hello"+hidden)),
		"two lengths alike":           post("hello", "Content-Length: 5", "Content-Length: 5") + hidden,
		"list of lengths":             post("hello", "Content-Length: 5, 5") + hidden,
		"length with a sign":          post("hello", "Content-Length: +5") + hidden,
		"negative length":             post("hello", "Content-Length: -5") + hidden,
		"hexadecimal length":          post("hello", "Content-Length: 0x5") + hidden,
		"octal length":                post("hello", "Content-Length: 05") + hidden,
		"length past 2^64":            post("hello", "Content-Length: 18446744073709551621") + hidden,
		"length with a letter":        post("hello", "Content-Length: 5a") + hidden,
		"empty length":                post(hidden, "Content-Length: "),
		"length behind a tab":         post("hello", "Content-Length:\t5\t") + hidden,
		"length behind a vertical":    post("hello", "Content-Length:\v5") + hidden,
		"body of a GET":               "GET /first-000000 HTTP/1.1\r\nHost: x\r\n" + length(hidden) + "\r\n\r\n" + hidden,
		"space before the colon":      post("hello"+hidden, "Content-Length : 5"),
		"tab before the colon":        post("hello"+hidden, "Content-Length\t: 5"),
		"fold":                        post("hello"+hidden, "X: a", " Content-Length: 5"),
		"fold of the length":          post("hello"+hidden, "Content-Length:", " 5"),
		"fold at the start":           "POST /first-000000 HTTP/1.1\r\n Host: x\r\nContent-Length: 5\r\n\r\nhello" + hidden,
		"field without a colon":       post("hello"+hidden, "Content-Length 5"),
		"field without a name":        post("hello"+hidden, ": x", "Content-Length: 5"),
		"NUL in a name":               post("hello"+hidden, "Content-\x00Length: 5"),
		"NUL in a value":              post("hello"+hidden, "X: a\x00b", "Content-Length: 5"),
		"bare CR in a value":          post("hello"+hidden, "X: a\rContent-Length: 5"),
		"bare LF in the header":       post("hello"+hidden, "X: a\nContent-Length: 5"),
		"only LF":                     "POST /first-000000 HTTP/1.1\nHost: x\nContent-Length: 5\n\nhello" + hidden,
		"LF at the end of the header": "POST /first-000000 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\nhello" + hidden,
		"underscore in the length":    post("hello"+hidden, "Content_Length: 5"),
		"underscore in the coding":    post(chunked, "Transfer_Encoding: chunked") + hidden,
		"invalid UTF-8":               post("hello", "X: \xff\xfe\xc3\x28", "Content-Length: 5") + hidden,
		"absolute form":               "GET http://other/first-000000 HTTP/1.1\r\nHost: x\r\n\r\n" + hidden,
		"two spaces":                  "GET  /first-000000 HTTP/1.1\r\nHost: x\r\n\r\n" + hidden,
		"space at the end":            "GET /first-000000 HTTP/1.1 \r\nHost: x\r\n\r\n" + hidden,
		"space in the target":         "GET /first-000000 x HTTP/1.1\r\nHost: x\r\n\r\n" + hidden,
		"tab in the request line":     "GET\t/first-000000 HTTP/1.1\r\nHost: x\r\n\r\n" + hidden,
		"HTTP/0.9":                    "GET /first-000000\r\n" + hidden,
		"HTTP/1.10":                   "GET /first-000000 HTTP/1.10\r\nHost: x\r\n\r\n" + hidden,
		"http in small letters":       "GET /first-000000 http/1.1\r\nHost: x\r\n\r\n" + hidden,
		"HTTP/1.0 chunked":            "POST /first-000000 HTTP/1.0\r\nHost: x\r\n" + te + "\r\n\r\n" + chunked + hidden,
		"blank lines before":          "\r\n\r\nGET /first-000000 HTTP/1.1\r\nHost: x\r\n\r\n" + hidden,
		"two hosts":                   "GET /first-000000 HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n" + hidden,
		"no host":                     "GET /first-000000 HTTP/1.1\r\n\r\n" + hidden,
		"chunk extensions":            post("5;a=b;c=\"d\"\r\nhello\r\n0;e\r\n\r\n", te) + hidden,
		"huge chunk extension":        post("5;a="+strings.Repeat("x", 100_000)+"\r\nhello\r\n0\r\n\r\n", te) + hidden,
		"extension with a line end":   post("5;a=\"\nx\r\nhello\r\n0\r\n\r\n", te) + hidden,
		"chunk size in hexadecimal":   post("0x5\r\nhello\r\n0\r\n\r\n", te) + hidden,
		"chunk size with a sign":      post("+5\r\nhello\r\n0\r\n\r\n", te) + hidden,
		"chunk size behind a space":   post(" 5\r\nhello\r\n0\r\n\r\n", te) + hidden,
		"chunk size before a space":   post("5 \r\nhello\r\n0\r\n\r\n", te) + hidden,
		"chunk size past 2^64":        post("10000000000000005\r\nhello\r\n0\r\n\r\n", te) + hidden,
		"chunk size with zeros":       post("00000000000000005\r\nhello\r\n0\r\n\r\n", te) + hidden,
		"empty chunk size":            post("\r\nhello\r\n0\r\n\r\n", te) + hidden,
		"LF after the chunk size":     post("5\nhello\r\n0\r\n\r\n", te) + hidden,
		"LF after the chunk":          post("5\r\nhello\n0\r\n\r\n", te) + hidden,
		"chunk longer than it says":   post("5\r\nhelloworld\r\n0\r\n\r\n", te) + hidden,
		"trailer":                     post("5\r\nhello\r\n0\r\nX: y\r\n\r\n", te) + hidden,
		"length in the trailer":       post("5\r\nhello\r\n0\r\nContent-Length: 60\r\n\r\n", te) + hidden,
		"broken trailer":              post("5\r\nhello\r\n0\r\nnonsense\r\n\r\n", te) + hidden,
		"end in a chunk":              post("50\r\nhello", te),
		"end in a body":               post("hello", "Content-Length: 50"),
		"end in the header":           "GET /first-000000 HTTP/1.1\r\nHost: x\r\n",
		"connection of the length":    post("hello", "Connection: Content-Length", "Content-Length: 5") + hidden,
		"upgrade":                     post("hello", "Connection: upgrade", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__", "Content-Length: 5") + hidden,
	}
	for i, c := range []string{
		"xchunked", "chunkedx", "identity", "gzip, chunked", "chunked, chunked", "chunked, identity", "identity, chunked",
		"chunked;q=1", "\"chunked\"", "CHUNKED", "chunked,", ",chunked", "\vchunked", "chunked\v", "\x00chunked", "chunked\x00", "ch\xf5unked", "cow",
	} {
		v[fmt.Sprintf("coding %d %q", i, c)] = post(chunked, "Transfer-Encoding: "+c) + hidden
	}
	v["two codings"] = post(chunked, te, "Transfer-Encoding: identity") + hidden
	v["two codings, the other way"] = post(chunked, "Transfer-Encoding: identity", te) + hidden
	v["empty coding"] = post(chunked, "Transfer-Encoding: ") + hidden
	v["coding before the colon"] = post(chunked, "Transfer-Encoding : chunked") + hidden
	return v
}

// accepted are the vectors that leave nothing to doubt; all others are refused.
var accepted = map[string]bool{
	"plain":                    true,
	"chunked":                  true,
	"length behind a tab":      true,
	"body of a GET":            true,
	"absolute form":            true,
	"trailer":                  true,
	"length in the trailer":    true,
	"octal length":             true,
	"chunk extensions":         true,
	"connection of the length": true,
	`coding 9 "CHUNKED"`:       true,
	"underscore in the coding": true,
	"underscore in the length": true,
	"invalid UTF-8":            true,
	"upgrade":                  true,
}

// Wherever a request of doubtful shape ends, web server and onewake agree: the
// command runs once for each answer that says so, and never for what somebody
// else took for a body.
func TestSmuggling(t *testing.T) {
	dir := newDir(t, nil)
	command := script(t, dir, "record", `
n=-
[ -z "$CONTENT_LENGTH" ] || n=$(wc -c)
echo "$REQUEST_METHOD $PATH_INFO $n" | tee -a "`+dir+`/log"`)
	ran := func(s *server, mark string) (list []string) {
		eventually(t, "nothing under way", func() bool { st := s.status(); return st["running"] == "0" && st["queued"] == "0" })
		b, _ := os.ReadFile(dir + "/log")
		for line := range strings.Lines(string(b)) {
			if strings.Contains(line, mark) {
				list = append(list, strings.TrimSpace(line))
			}
		}
		return list
	}
	behind, addr := front(t, "unix", "--", command)
	direct := start(t, "--", command)
	refused, executed, number := 0, 0, 0
	for name, raw := range vectors() {
		for _, s := range []*server{direct, behind} {
			number++
			via, to, mark := "directly", s.addr, fmt.Sprintf("-%06d", number)
			if s == behind {
				via, to = "behind nginx", "tcp:"+addr
			}
			// The mark keeps the length of everything.
			c := dial(t, to)
			c.trySend(strings.ReplaceAll(raw, "-000000", mark))
			if s == direct || strings.HasPrefix(name, "end in") {
				c.halfClose() // which nginx takes for the client's end
			}
			var says []string
			last, n := 0, 0
			listen := func(wait time.Duration) {
				for ; ; wait = 300 * time.Millisecond {
					c.SetReadDeadline(time.Now().Add(wait))
					if _, err := c.r.Peek(1); err != nil {
						return
					}
					c.SetReadDeadline(time.Now().Add(patience))
					resp, err := http.ReadResponse(c.r, &http.Request{Method: "GET"})
					if err != nil {
						return
					}
					n++
					b, err := io.ReadAll(resp.Body)
					if last = resp.StatusCode; last == 200 && err == nil {
						says = append(says, strings.TrimSpace(string(b)))
					}
					if err != nil {
						return
					}
				}
			}
			listen(patience)
			did := ran(s, mark)
			if len(did) > len(says) { // an answer that is late, or none
				listen(patience)
			}
			c.Close()
			if !slices.Equal(did, says) {
				t.Errorf("%s, %s: the command ran for %q, the answers are to %q, the last with %d", name, via, did, says, last)
			}
			if s == direct && (len(did) > 0) != accepted[name] {
				t.Errorf("%s: the command ran for %q, the last answer is %d", name, did, last)
			}
			executed += len(did)
			if last >= 400 {
				refused++
			}
			if n == 0 && !strings.HasPrefix(name, "end in") && s == direct {
				t.Errorf("%s, %s: no answer at all", name, via)
			}
		}
	}
	t.Logf("%d requests, each directly and behind nginx: %d refusals, %d processes, each with its answer", len(vectors()), refused, executed)
	direct.get("/").wantStatus(t, 200)
	direct.stop()
	behind.stop()
}

// Fields without end cost what the limits say.
func TestHeaderFlood(t *testing.T) {
	needRoot(t, "it looks at the memory of processes that are closed to their own user")
	s := start(t, "--", trueProgram)
	for _, tt := range []struct{ name, field string }{
		{"small fields", strings.Repeat("A:\r\n", 1<<10)},
		{"large fields", "X-Large: " + strings.Repeat("x", 60<<10) + "\r\n"},
		{"one field", strings.Repeat("x", 64<<10)},
		{"spaces", "X:" + strings.Repeat(" ", 60<<10) + "\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var wg sync.WaitGroup
			var refused, sent atomic.Int64
			for range 20 {
				wg.Go(func() {
					c := dial(t, s.addr)
					defer c.Close()
					io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n")
					go func() {
						for range 10 << 20 / len(tt.field) {
							n, err := io.WriteString(c, tt.field)
							sent.Add(int64(n))
							if err != nil {
								return
							}
						}
					}()
					if a, err := c.tryAnswer("GET"); err == nil && a.status == 431 {
						refused.Add(1)
					}
				})
			}
			wg.Wait()
			if refused.Load() != 20 {
				t.Errorf("%d of 20 have been refused with 431", refused.Load())
			}
		})
	}
	t.Logf("core: %d KiB at most", peakResident(t, s.core))
	if kib := peakResident(t, s.core); kib > 64<<10 && !raceEnabled {
		t.Errorf("the core has taken %d KiB", kib)
	}
	s.get("/").wantStatus(t, 200)
	s.stop()
}

// Small connections without end, with and without a request.
func TestManyConnections(t *testing.T) {
	needRoot(t, "it counts the descriptors of processes that are closed to their own user")
	s := start(t, "-access-log=false", "--", trueProgram)
	kinds := []string{"", "G", "GET / HTTP/1.1\r\n", "\r\n", "\x00", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc"}
	storm := func(n int) {
		var wg sync.WaitGroup
		var next atomic.Int64
		for range 16 {
			wg.Go(func() {
				for {
					i := int(next.Add(1))
					if i > n {
						return
					}
					c, err := dialErr(s.addr)
					if err != nil {
						if !errors.Is(err, syscall.EAGAIN) { // a full backlog
							t.Error(err)
							return
						}
						continue
					}
					io.WriteString(c, kinds[i%len(kinds)])
					c.Close()
				}
			})
		}
		wg.Wait()
		eventually(t, "no connection left", func() bool {
			st := s.status()
			return st["conns"] == "0" && st["running"] == "0"
		})
	}
	n := count(20_000, 100_000)
	storm(n / 2)
	before := []hold{holds(t, s.pid), holds(t, s.core)}
	began := time.Now()
	storm(n / 2)
	took := time.Since(began)
	after := []hold{holds(t, s.pid), holds(t, s.core)}
	t.Logf("%d connections, the latter half in %v: monitor and core %v before, %v after (descriptors, KiB)", n, took.Round(time.Millisecond), before, after)
	for i, who := range []string{"monitor", "core"} {
		// How many of them are there at once is chance, and with it the memory.
		if after[i].descriptors > before[i].descriptors || after[i].kib > 48<<10 && !raceEnabled {
			t.Errorf("%s: %v before, %v after", who, before[i], after[i])
		}
	}
	s.get("/").wantStatus(t, 200)
	s.stop()
}
