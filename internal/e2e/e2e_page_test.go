//go:build freebsd || linux

package e2e

import (
	"bufio"
	"encoding/xml"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/onewake/onewake/perms"
)

// These tests check the test page.

func TestPage(t *testing.T) {
	t.Parallel()
	dir := newDir(t, nil)
	s := launch{dir: dir, args: []string{"-forwarded", "X-Request-Id", "-socket-mode", "0640", "-listen", "unix:" + dir + "/s", "-listen", "tcp4:127.0.0.1:0"}}.start(t)
	t.Run("plain", func(t *testing.T) {
		a := s.get("/a%20b?x=y", "X-Request-Id: r1", "User-Agent: curl/8.0", "Accept: */*", "X-Quote: it's")
		a.wantStatus(t, 200)
		wantField("Content-Type", "text/plain; charset=utf-8")(t, a)
		lines := strings.Split(strings.TrimSuffix(a.body, "\n"), "\n")
		if lines[0] != "Hello world!" || lines[1] != "" {
			t.Fatalf("%q", lines[:2])
		}
		host, _ := os.Hostname()
		want := []string{ // sorted
			"GATEWAY_INTERFACE='CGI/1.1'", "HTTP_ACCEPT='*/*'", "HTTP_HOST='example.org'", "HTTP_USER_AGENT='curl/8.0'", `HTTP_X_QUOTE='it\'s'`, "HTTP_X_REQUEST_ID='r1'",
			"PATH_INFO='/a b'", "QUERY_STRING='x=y'", "REMOTE_ADDR='<unix>'", "REMOTE_HOST='<unix>'", "REQUEST_METHOD='GET'",
			"REQUEST_SCHEME='http'", "REQUEST_URI='/a%20b?x=y'", "SCRIPT_NAME=''", "SERVER_NAME='" + host + "'", "SERVER_PORT='0'",
			"SERVER_PROTOCOL='HTTP/1.1'", "SERVER_SOFTWARE='onewake/" + testVersion + "'", "UNIQUE_ID='r1'",
		}
		if vars := lines[2:]; !slices.Equal(vars, want) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(vars, "\n"), strings.Join(want, "\n"))
		}
	})
	t.Run("other methods", func(t *testing.T) {
		s.request("POST", post11("/", strings.Repeat("x", 100000))).wantStatus(t, 200)
		s.request("HEAD", text11("HEAD", "/", "Connection: close")).want(t, 200, "")
	})
	record := s.await("start")
	file := splitList(record["socket"])[0]
	if !strings.HasPrefix(file, "0640 ") {
		t.Errorf("start record: socket %q", file)
	}
	sandbox := record["sandbox"]
	if hasSandbox {
		sandbox = "capability mode"
	}
	me := perms.UserName(os.Geteuid())
	for i, listener := range splitList(record["listen"]) {
		network, _, _ := strings.Cut(listener, ":")
		t.Run("HTML by "+network, func(t *testing.T) {
			c := dial(t, dialable(listener))
			rows := askPage(t, c)
			want := map[string]string{"Sandbox": sandbox, "Listener": listener, "Runs as": me}
			if i == 0 {
				want["Socket file"] = file
				want["Peer"] = fmt.Sprintf("uid %d %s", os.Geteuid(), me)
			} else {
				_, port, _ := net.SplitHostPort(c.LocalAddr().String())
				want["Peer"] = "127.0.0.1 port " + port
			}
			wantRows(t, rows, want)
		})
	}
	s.stop()
}

func TestPageSandboxOff(t *testing.T) {
	t.Parallel()
	s := start(t, "-sandbox", "off")
	wantRows(t, askPage(t, dial(t, s.addr)), map[string]string{"Sandbox": "off"})
	s.stop()
}

// askPage requests the page like a browser, with markup in everything that a
// client can choose, and returns its rows.
func askPage(t *testing.T, c *conn) map[string]string {
	t.Helper()
	c.send("%s", get11("/<b>?a=1&b=\"", "Accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8", "X-Evil: <script>alert(1)</script>'\""))
	a := c.answer("GET")
	a.wantStatus(t, 200)
	wantField("Content-Type", "text/html; charset=utf-8")(t, a)
	title, rows := parsePage(t, a.body)
	if title != "onewake works" {
		t.Errorf("title %q", title)
	}
	wantRows(t, rows, map[string]string{"PATH_INFO": "/<b>", "QUERY_STRING": "a=1&b=\"", "HTTP_X_EVIL": "<script>alert(1)</script>'\""})
	if strings.Contains(a.body, "<script") || strings.Contains(a.body, "/<b>") {
		t.Error("text from a client is markup in the page")
	}
	return rows
}

func wantRows(t *testing.T, rows, want map[string]string) {
	t.Helper()
	for k, v := range want {
		if rows[k] != v {
			t.Errorf("%s: %q, want %q", k, rows[k], v)
		}
	}
}

// parsePage parses the page, which is well-formed XML. It returns the title and
// the rows of its lists: names, and the code beside them.
func parsePage(t *testing.T, page string) (title string, rows map[string]string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(page))
	d.Strict = false // <meta> has no end tag
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

// The page shows the peer, also one that no database knows.
func TestPagePeer(t *testing.T) {
	t.Parallel()
	needRoot(t, "it connects as other users")
	other := nobody(t)
	type peer struct {
		uid  uint32
		want string
	}
	for _, tt := range []struct {
		flags []string
		peers []peer
		open  bool // to every user of the machine
	}{
		{nil, []peer{
			{uidOther, fmt.Sprintf("uid %d", uidOther)},
			{other.Uid, fmt.Sprintf("uid %d", other.Uid)}, // a user that is not named anywhere
		}, true},
		{[]string{"-allow", "nobody"}, []peer{{other.Uid, fmt.Sprintf("uid %d nobody", other.Uid)}}, false},
	} {
		s := start(t, append([]string{"-socket-mode", "0666"}, tt.flags...)...)
		for _, p := range tt.peers {
			page := as(t, &syscall.Credential{Uid: p.uid, Gid: p.uid}, "page", s.path)
			if _, rows := parsePage(t, page); rows["Peer"] != p.want {
				t.Errorf("%q: peer %q, want %q", tt.flags, rows["Peer"], p.want)
			}
			if open := strings.Contains(page, "every local user can connect"); open != tt.open {
				t.Errorf("%q: every user can connect: %v", tt.flags, open)
			}
			s.await("request", "uid", fmt.Sprint(p.uid))
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
