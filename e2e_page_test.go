//go:build freebsd || linux

package main

import (
	"encoding/xml"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// The test page: what an administrator sees before there is a command.

func TestPagePlain(t *testing.T) {
	t.Parallel()
	s := start(t, "-forwarded", "X-Request-Id")
	a := s.get("/a%20b?x=y", "X-Request-Id: r1", "User-Agent: curl/8.0", "Accept: */*", "X-Quote: it's")
	a.wantStatus(t, 200)
	wantField("Content-Type", "text/plain; charset=utf-8")(t, a)
	lines := strings.Split(strings.TrimSuffix(a.body, "\n"), "\n")
	if lines[0] != "Hello world!" || lines[1] != "" {
		t.Fatalf("%q", lines[:2])
	}
	vars := lines[2:]
	if !slices.IsSorted(vars) {
		t.Errorf("not sorted: %q", vars)
	}
	host, _ := os.Hostname()
	want := []string{
		"GATEWAY_INTERFACE='CGI/1.1'", "HTTP_ACCEPT='*/*'", "HTTP_HOST='example.org'", "HTTP_USER_AGENT='curl/8.0'", `HTTP_X_QUOTE='it\'s'`, "HTTP_X_REQUEST_ID='r1'",
		"PATH_INFO='/a b'", "QUERY_STRING='x=y'", "REMOTE_ADDR='<unix>'", "REMOTE_HOST='<unix>'", "REQUEST_METHOD='GET'",
		"REQUEST_SCHEME='http'", "REQUEST_URI='/a%20b?x=y'", "SCRIPT_NAME=''", "SERVER_NAME='" + host + "'", "SERVER_PORT='0'",
		"SERVER_PROTOCOL='HTTP/1.1'", "SERVER_SOFTWARE='onewake/" + testVersion + "'", "UNIQUE_ID='r1'",
	}
	if !slices.Equal(vars, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(vars, "\n"), strings.Join(want, "\n"))
	}
	// With a body, and to HEAD.
	s.request("POST", post11("/", strings.Repeat("x", 100000))).wantStatus(t, 200)
	s.request("HEAD", text11("HEAD", "/", "Connection: close")).want(t, 200, "")
	s.stop()
}

func TestPageHTML(t *testing.T) {
	t.Parallel()
	sandboxed := "capability mode"
	for _, tt := range []struct{ listen, sandbox string }{{"unix", "on"}, {"tcp", "on"}, {"unix", "off"}} {
		s := (*server)(nil)
		flags := []string{"-sandbox", tt.sandbox, "-socket-mode", "0640"}
		if tt.listen == "tcp" {
			flags = append(flags, "-listen", "tcp4:127.0.0.1:0")
		}
		s = start(t, flags...)
		c := dial(t, s.addr)
		c.send("%s", get11("/<b>?a=1&b=\"", "Accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8", "X-Evil: <script>alert(1)</script>'\""))
		a := c.answer("GET")
		a.wantStatus(t, 200)
		wantField("Content-Type", "text/html; charset=utf-8")(t, a)
		title, rows := parsePage(t, a.body)
		if title != "onewake works" {
			t.Errorf("title %q", title)
		}
		want := map[string]string{
			"PATH_INFO": "/<b>", "QUERY_STRING": "a=1&b=\"", "HTTP_X_EVIL": "<script>alert(1)</script>'\"",
			"sandbox": s.await("start")["sandbox"], "listener": splitList(s.await("start")["listen"])[0],
		}
		if tt.listen == "unix" {
			want["socket mode and owner"] = splitList(s.await("start")["socket"])[0]
			want["peer"] = fmt.Sprintf("uid %d", os.Geteuid())
			if !strings.HasPrefix(want["socket mode and owner"], "0640 ") {
				t.Errorf("start record: socket %q", want["socket mode and owner"])
			}
		} else {
			local := c.LocalAddr().String()
			want["peer"] = "127.0.0.1 port " + local[strings.LastIndexByte(local, ':')+1:]
		}
		switch {
		case tt.sandbox == "off":
			want["sandbox"] = "off"
		case hasSandbox:
			want["sandbox"] = sandboxed
		}
		for k, v := range want {
			if rows[k] != v {
				t.Errorf("%s: %q, want %q", k, rows[k], v)
			}
		}
		if strings.Contains(a.body, "<script") || strings.Contains(a.body, "<b>") {
			t.Error("what a client sent is markup in the page")
		}
		s.stop()
	}
}

// parsePage reads the page as a browser does that is strict about nothing but
// nesting, and gives its title and the rows of its tables.
func parsePage(t *testing.T, page string) (title string, rows map[string]string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(page))
	d.Strict = false
	d.AutoClose = append(slices.Clone(xml.HTMLAutoClose), "td", "tr")
	d.Entity = xml.HTMLEntity
	rows = make(map[string]string)
	var cells []string
	at, heading := "", ""
	for {
		tok, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("the page cannot be parsed: %v", err)
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			switch at = tok.Name.Local; at {
			case "tr":
				cells = nil
			case "td":
				cells = append(cells, "")
			}
		case xml.CharData:
			switch {
			case at == "title":
				title += string(tok)
			case at == "h1":
				heading += string(tok)
			case at == "td" || at == "code":
				if n := len(cells); n > 0 {
					cells[n-1] += string(tok)
				}
			}
		case xml.EndElement:
			if tok.Name.Local == at || tok.Name.Local == "code" {
				if at == "code" && len(cells) == 2 {
					rows[cells[0]] = cells[1]
				}
				if at != "td" {
					at = ""
				}
			}
		}
	}
	if !strings.Contains(heading, "Hello world!") {
		t.Errorf("heading %q", heading)
	}
	return title, rows
}

// The page tells who the peer is.
func TestPagePeer(t *testing.T) {
	t.Parallel()
	needRoot(t, "it connects as another user")
	s := start(t, "-socket-mode", "0666")
	if got := as(t, &syscall.Credential{Uid: uidOther, Gid: uidOther}, "connect", s.path); got != "in 200\n" {
		t.Errorf("%s", got)
	}
	s.await("request", "uid", fmt.Sprint(uidOther))
	s.stop()
}
