//go:build linux

package e2e

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// hidden is a request that a client hides in the body of another one or after
// its end.
const hidden = "GET /hidden-000000 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

// vectors are requests with an ambiguous end or ambiguous fields.
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

// accepted are the vectors that are not ambiguous, with what is served; all
// others are refused.
var accepted = map[string]string{
	"plain":                    "first hidden",
	"chunked":                  "first",
	"length behind a tab":      "first hidden",
	"body of a GET":            "first",
	"absolute form":            "first hidden",
	"trailer":                  "first",
	"length in the trailer":    "first",
	"octal length":             "first hidden",
	"chunk extensions":         "first",
	"connection of the length": "first hidden",
	`coding 9 "CHUNKED"`:       "first",
	"underscore in the coding": "first",        // without a body; the chunk is not a request
	"underscore in the length": "first hidden", // with the method "helloGET"
	"invalid UTF-8":            "first hidden",
	"upgrade":                  "first hidden",

	// net/http accepts these as RFC 9112 allows (§§ 2.2, 5.2, 6.3). A chunked
	// body ends the connection, whatever follows.
	"bare LF in the header":       "first hidden",
	"only LF":                     "first hidden",
	"LF at the end of the header": "first hidden",
	"fold":                        "first hidden",
	"fold of the length":          "first hidden",
	"two lengths alike":           "first hidden",
	"chunked, then length":        "first",
	"length, then chunked":        "first",
	"chunked longer than length":  "first",
	"chunk size before a space":   "first",
	"HTTP/1.0 chunked":            "first",
}

// A hidden request is never served: the connection is closed after a refused
// request, and a request that is served ends where the specification says.
func TestSmuggling(t *testing.T) {
	t.Parallel()
	s := start(t)
	var answered []string // all of them, as the log should show them
	number := 0
	for name, raw := range vectors() {
		number++
		mark := fmt.Sprintf("-%06d", number) // it does not change any length
		c := dial(t, s.addr).trySend(strings.ReplaceAll(raw, "-000000", mark))
		c.halfClose()
		var says []string
		last := 0
		for {
			a, err := c.tryAnswer("GET")
			if err != nil {
				break
			}
			if last = a.status; last == 200 {
				_, path, _ := strings.Cut(a.body, "PATH_INFO='/")
				path, _, _ = strings.Cut(path, mark+"'")
				says = append(says, path)
				answered = append(answered, "/"+path+mark)
			}
		}
		c.Close()
		if got := strings.Join(says, " "); !slices.Contains(strings.Split(accepted[name], "|"), got) {
			t.Errorf("%s: served is %q, want %q; the last answer is %d", name, got, accepted[name], last)
		}
		if last == 0 && !strings.HasPrefix(name, "end in") {
			t.Errorf("%s: no answer at all", name)
		}
	}
	s.stop()
	var logged []string
	for _, r := range s.find("request", "status", "200") {
		logged = append(logged, strings.TrimPrefix(r["target"], "http://other"))
	}
	slices.Sort(answered)
	slices.Sort(logged)
	if !slices.Equal(answered, logged) {
		t.Errorf("answered are %q, the log has %q", answered, logged)
	}
	t.Logf("%d requests, %d served", number, len(answered))
}
