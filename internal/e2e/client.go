//go:build freebsd || linux

package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// conn is a client's connection. Tests write requests as text. Answers are
// parsed by net/http.
type conn struct {
	net.Conn
	t *testing.T
	r *bufio.Reader
}

// answer is a response. err is an error of reading its body.
type answer struct {
	status int
	proto  string
	header http.Header
	length int64 // Content-Length; -1 if there is none
	body   string
	err    error
	close  bool // the server closes the connection
}

// dial connects to unix:/path or tcp:host:port.
func dial(t *testing.T, addr string) *conn {
	t.Helper()
	c, err := dialErr(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &conn{Conn: c, t: t, r: bufio.NewReader(c)}
}

func dialErr(addr string) (net.Conn, error) {
	network, address, _ := strings.Cut(addr, ":")
	c, err := net.DialTimeout(network, address, patience)
	if err == nil {
		c.SetDeadline(time.Now().Add(2 * patience))
	}
	return c, err
}

func (c *conn) send(format string, args ...any) *conn {
	c.t.Helper()
	text := format
	if len(args) > 0 {
		text = fmt.Sprintf(format, args...)
	}
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatal(err)
	}
	return c
}

// trySend sends what the server may refuse before it has read everything.
func (c *conn) trySend(text string) *conn {
	io.WriteString(c, text)
	return c
}

// answer reads the response to a request with this method.
func (c *conn) answer(method string) *answer {
	c.t.Helper()
	a, err := c.tryAnswer(method)
	if err != nil {
		c.t.Fatalf("no answer: %v", err)
	}
	return a
}

func (c *conn) tryAnswer(method string) (*answer, error) {
	resp, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		return nil, err
	}
	a := &answer{status: resp.StatusCode, proto: resp.Proto, header: resp.Header, length: resp.ContentLength, close: resp.Close}
	b, err := io.ReadAll(resp.Body)
	a.body, a.err = string(b), err
	return a, nil
}

// until reads up to and including some text.
func (c *conn) until(text string) {
	c.t.Helper()
	var got []byte
	for !strings.HasSuffix(string(got), text) {
		b, err := c.r.ReadByte()
		if err != nil {
			c.t.Fatalf("no %q after %q: %v", text, got, err)
		}
		got = append(got, b)
	}
}

// closed checks that the server has closed the connection.
func (c *conn) closed() {
	c.t.Helper()
	if b, err := c.r.ReadByte(); err == nil {
		c.t.Errorf("byte %q on a connection that should be closed", b)
	}
}

// cutWithoutAnswer reads up to the end and reports whether there was nothing.
func (c *conn) cutWithoutAnswer() bool {
	n, _ := io.Copy(io.Discard, c.r)
	return n == 0
}

func (c *conn) halfClose() {
	c.t.Helper()
	if err := c.Conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		c.t.Fatal(err)
	}
}

// request sends a request on a new connection.
func (s *server) request(method, raw string) *answer {
	s.t.Helper()
	c := dial(s.t, s.addr)
	defer c.Close()
	return c.trySend(raw).answer(method)
}

// get sends a GET request with additional fields.
func (s *server) get(target string, fields ...string) *answer {
	s.t.Helper()
	return s.request("GET", get11(target, fields...))
}

// get11 returns the text of a GET request that closes its connection.
func get11(target string, fields ...string) string {
	return text11("GET", target, append(fields, "Connection: close")...)
}

func text11(method, target string, fields ...string) string {
	return method + " " + target + " HTTP/1.1\r\nHost: example.org\r\n" +
		strings.Join(append(fields, ""), "\r\n") + "\r\n"
}

func post11(target, body string, fields ...string) string {
	return text11("POST", target, append(fields, fmt.Sprintf("Content-Length: %d", len(body)), "Connection: close")...) + body
}

// want checks status and body of a complete answer.
func (a *answer) want(t *testing.T, status int, body string) {
	t.Helper()
	if a.status != status || a.body != body || a.err != nil {
		t.Errorf("got %d, %.200q, %v; want %d, %.200q", a.status, a.body, a.err, status, body)
	}
}

// wantStatus checks only the status.
func (a *answer) wantStatus(t *testing.T, status int) {
	t.Helper()
	if a.status != status || a.err != nil {
		t.Errorf("got %d, %.200q, %v; want %d", a.status, a.body, a.err, status)
	}
}

// chunked11 returns the text of a POST request with a chunked body.
func chunked11(target, body string, fields ...string) string {
	return text11("POST", target, append(fields, "Transfer-Encoding: chunked", "Connection: close")...) +
		fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)
}
