//go:build freebsd || linux

package e2e

import (
	"bufio"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/onewake/onewake/perms"
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
			"Sandbox": s.await("start")["sandbox"], "Listener": splitList(s.await("start")["listen"])[0],
			"Runs as": perms.UserName(os.Geteuid()),
		}
		if tt.listen == "unix" {
			want["Socket file"] = splitList(s.await("start")["socket"])[0]
			want["Peer"] = fmt.Sprintf("uid %d %s", os.Geteuid(), perms.UserName(os.Geteuid()))
			if !strings.HasPrefix(want["Socket file"], "0640 ") {
				t.Errorf("start record: socket %q", want["Socket file"])
			}
		} else {
			local := c.LocalAddr().String()
			want["Peer"] = "127.0.0.1 port " + local[strings.LastIndexByte(local, ':')+1:]
		}
		switch {
		case tt.sandbox == "off":
			want["Sandbox"] = "off"
		case hasSandbox:
			want["Sandbox"] = sandboxed
		}
		for k, v := range want {
			if rows[k] != v {
				t.Errorf("%s: %q, want %q", k, rows[k], v)
			}
		}
		if strings.Contains(a.body, "<script") || strings.Contains(a.body, "<b>a") || strings.Contains(a.body, "/<b>") {
			t.Error("what a client sent is markup in the page")
		}
		s.stop()
	}
}

// parsePage reads the page, whose markup is well-formed, and gives its title
// and the rows of its lists: names and what is set as code beside them.
func parsePage(t *testing.T, page string) (title string, rows map[string]string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(page))
	d.Strict = false // <meta> has no end
	d.AutoClose = xml.HTMLAutoClose
	rows = make(map[string]string)
	var open []string
	name, heading := "", ""
	for {
		tok, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("the page cannot be parsed: %v", err)
		}
		in := func(element string) bool { return slices.Contains(open, element) }
		switch tok := tok.(type) {
		case xml.StartElement:
			if open = append(open, tok.Name.Local); tok.Name.Local == "dt" {
				name = ""
			}
		case xml.CharData:
			switch {
			case in("title"):
				title += string(tok)
			case in("h1"):
				heading += string(tok)
			case in("dt"):
				name += string(tok)
			case in("dd") && in("code") && !in("span"):
				rows[name] += string(tok)
			}
		case xml.EndElement:
			open = open[:len(open)-1]
		}
	}
	if heading != "Hello world!" {
		t.Errorf("heading %q", heading)
	}
	return title, rows
}

// The page tells who the peer is, also one whom nothing names.
func TestPagePeer(t *testing.T) {
	t.Parallel()
	needRoot(t, "it connects as other users")
	other := nobody(t)
	for _, tt := range []struct {
		flags []string
		uid   uint32
		want  string // of the peer
	}{
		{nil, uidOther, fmt.Sprintf("uid %d", uidOther)},
		{nil, other.Uid, fmt.Sprintf("uid %d", other.Uid)}, // a user, and nothing that is let in names it
		{[]string{"-allow", "nobody"}, other.Uid, fmt.Sprintf("uid %d nobody", other.Uid)},
		{[]string{"-socket-group", fmt.Sprint(other.Gid)}, other.Uid, fmt.Sprintf("uid %d nobody", other.Uid)},
	} {
		s := start(t, append([]string{"-socket-mode", "0666"}, tt.flags...)...)
		page := as(t, &syscall.Credential{Uid: tt.uid, Gid: tt.uid}, "page", s.path)
		if _, rows := parsePage(t, page); rows["Peer"] != tt.want {
			t.Errorf("%q: peer %q, want %q", tt.flags, rows["Peer"], tt.want)
		}
		s.await("request", "uid", fmt.Sprint(tt.uid))
		if open := strings.Contains(page, "every local user can connect"); open != (len(tt.flags) == 0 || tt.flags[0] != "-allow") {
			t.Errorf("%q: every user can connect: %v", tt.flags, open)
		}
		s.stop()
	}
}

// rolePage prints the page as a browser gets it.
func rolePage(args []string) int {
	c, err := dialErr("unix:" + args[0])
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer c.Close()
	io.WriteString(c, get11("/", "Accept: text/html"))
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err == nil {
		_, err = io.Copy(os.Stdout, resp.Body)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}
