//go:build interop

package e2e

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// difference is a difference between onewake and fcgiwrap and its reason, as in
// docs/recipes/from-fcgiwrap.md. where matches "REQUEST: KEY: OLD -> NEW".
type difference struct{ where, reason string }

var fcgiwrapDifferences = []difference{
	{`: (HOME|LANG|FCGI_ROLE): ".+" -> none$`, "A script gets the request's variables and `-env`, nothing else: no `HOME`, no `LANG`, no `FCGI_ROLE`."},
	{`: PATH: `, "`PATH` is always `/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin`."},
	{`: UNIQUE_ID: none -> "`, "`UNIQUE_ID` is the `request_id` of the log."},
	{`: HTTP_PROXY: ".+" -> none$`, "`HTTP_PROXY` is never passed on: any client can set it, and programs use it as their proxy."},
	{`: (MY_PARAM|NO_BUFFERING): ".+" -> none$`, "A parameter that web servers do not set by default needs `-param NAME`; the log names those that were dropped."},
	{`: CONTENT_LENGTH: "" -> none$`, "A request without a body has no `CONTENT_LENGTH`; with fcgiwrap it is empty."},
	{`/walk/.*: SCRIPT_FILENAME: none -> "`, "`SCRIPT_FILENAME` is set even if nginx does not set it."},
	{`/env\.cgi(/|%2F).*: answer: "403 403 Forbidden" -> "200"$`, "What follows the script's name is `PATH_INFO`, even without `fastcgi_split_path_info`; fcgiwrap answers 403."},
	{`: answer: "(403 403 Forbidden|502 502 Bad Gateway)" -> "404 404 Not Found: no such script"$`, "A script that is missing or not executable is 404, not 403 or 502."},
	{`: answer: "200" -> "404 404 Not Found: no such script"$`, "Also 404: names that begin with a dot, more than four levels, files that others can write, and links to files that belong to neither root nor the directory's owner."},
	{`: answer: "(100|200|600 ok|malformed .*)" -> "502 502 Bad Gateway: malformed `, "Malformed output is 502, and the log quotes the line: a status outside 200 to 599, `HTTP/1.1 200` instead of `Status`, `Transfer-Encoding`, a control character, a body that contradicts `Content-Length`."},
	{`: answer: "502 (502 Bad Gateway|An error occurred while reading CGI).*" -> "502 502 Bad Gateway: `, "If both answer 502, the page is onewake's own and says why."},
	{`: answer: "502 An error occurred while reading the request" -> "(200|404 none|502 502 Bad Gateway: malformed .*)"$`, "A script need not read its body. With fcgiwrap that is 502 if the body does not fit a pipe."},
	{`/killed\.cgi: answer: "200" -> "502 502 Bad Gateway: the command was killed"$`, "A script that a signal kills before any of its answer is sent is 502, not a short 200."},
	{`/empty\.cgi: X-(Empty|Blank): "" -> none$`, "Header fields without a value are not passed on."},
	{`/connection\.cgi: Upgrade: "x" -> none$`, "`Connection`, `Keep-Alive`, `TE`, `Trailer` and `Upgrade` are not passed on."},
	{`/twotypes\.cgi: Content-Type: "text/html" -> "text/plain"$`, "If `Content-Type` comes twice, the first counts, and the log has a warning; nginx takes the last."},
	{`: Content-Length: none -> "\d+"$`, "A short answer has a `Content-Length`; nginx sends fcgiwrap's in chunks."},
}

// fcgiwrapRaces are prefixes of where for differences that depend on timing.
const fcgiwrapRaces = `/killed\.cgi`

// asked is an answer as lines by key.
func asked(t *testing.T, addr string, r fcgiwrapRequest) map[string]string {
	t.Helper()
	text := askText(r.method, r.target, r.body, r.fields...)
	c := dial(t, addr)
	defer c.Close()
	a, err := c.trySend(text).tryAnswer(r.method)
	if err != nil {
		return map[string]string{"answer": err.Error()}
	}
	lines := map[string]string{"answer": fmt.Sprint(a.status)}
	if a.status >= 400 { // its body depends on the server
		lines["answer"] += " " + a.body
		return lines
	}
	for name, values := range a.header {
		if name != "Date" && name != "Server" {
			lines[name] = strings.Join(values, " | ")
		}
	}
	if a.err != nil {
		lines["cut"] = a.err.Error()
	}
	if a.header.Get("Content-Type") != "text/x-env" {
		lines["body"] = a.body
		return lines
	}
	for line := range strings.Lines(a.body) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		if name == "REMOTE_PORT" {
			value = "" // another connection
		}
		lines[name] = value
	}
	return lines
}

// TestInteropFcgiwrap follows the page: onewake replaces fcgiwrap at its path,
// behind an nginx whose configuration stays. Each request of the list must have
// the same answer and environment as before, except for the differences in the
// table.
func TestInteropFcgiwrap(t *testing.T) {
	t.Parallel()
	fcgiwrap := need(t, "fcgiwrap", "apt-get install fcgiwrap")
	needFile(t, "/etc/nginx/fastcgi_params", "apt-get install nginx-common")
	needFile(t, "/usr/share/perl5/CGI.pm", "apt-get install libcgi-pm-perl")
	need(t, "python3", "apt-get install python3")
	needRoot(t, "files of other users")
	m := newMachine(t)
	root, dir := m.here("/usr/local/www"), m.here("/var/run/fcgiwrap")
	fcgiwrapRoot(t, root)
	m.mkdir("/var/run/fcgiwrap", 0o755)
	old := startWebServer(t, "unix:"+dir+"/s", dir, m.onewake, "/usr/bin/env", "PATH=/usr/bin:/bin", "LANG=C.UTF-8", fcgiwrap, "-f", "-s", "unix:"+dir+"/s")
	if err := os.Chmod(dir+"/s", 0o666); err != nil {
		t.Fatal(err)
	}
	w := startWeb(t, "nginx", webConfig{site: strings.NewReplacer("@ROOT@", root, "@SOCKET@", dir+"/s").Replace(fcgiwrapSite)})
	requests := fcgiwrapRequests()
	var before, after []map[string]string
	for _, r := range requests {
		before = append(before, asked(t, w.addr, r))
	}
	old.stop()
	m.follow(readRecipe(t, "from-fcgiwrap.md"))
	set := strings.Fields(m.run("/bin/sh", "-c", `. "$ROOT/etc/rc.conf"; echo "$onewake_enable $onewake_protocol $onewake_scripts"`))
	s := launch{cred: m.onewake, dir: dir, args: []string{"-protocol", set[1], "-scripts", set[2], "-socket-mode", "0666"}}.start(t)
	for _, r := range requests {
		after = append(after, asked(t, w.addr, r))
	}
	s.await("stderr", "text", "oh dear\n")
	s.stop()
	w.stop()
	fcgiwrapCompare(t, root, requests, before, after)
}

// TestInteropFcgiwrapPage checks that the page lists exactly the differences in
// the table.
func TestInteropFcgiwrapPage(t *testing.T) {
	t.Parallel()
	_, list, _ := strings.Cut(shipped(t, "docs/recipes/from-fcgiwrap.md"), "\n## What is different\n")
	var page, table []string
	for _, item := range strings.Split(list, "\n- ")[1:] {
		page = append(page, strings.Join(strings.Fields(item), " "))
	}
	for _, d := range fcgiwrapDifferences {
		table = append(table, d.reason)
	}
	if !slices.Equal(page, table) {
		t.Errorf("the page has\n%s\nand the table\n%s", strings.Join(page, "\n"), strings.Join(table, "\n"))
	}
}

// fcgiwrapCompare checks that each difference is in the table, and that each
// entry of the table occurs.
func fcgiwrapCompare(t *testing.T, root string, requests []fcgiwrapRequest, before, after []map[string]string) {
	t.Helper()
	var table []*regexp.Regexp
	for _, d := range fcgiwrapDifferences {
		table = append(table, regexp.MustCompile(d.where))
	}
	seen := make([]bool, len(table))
	for i, r := range requests {
		keys := maps.Clone(before[i])
		maps.Copy(keys, after[i])
		if before[i]["answer"] != after[i]["answer"] {
			keys = map[string]string{"answer": ""} // the rest follows from that
		}
		for _, key := range slices.Sorted(maps.Keys(keys)) {
			a, was := before[i][key]
			b, is := after[i][key]
			if a == b && was == is {
				continue
			}
			line := fmt.Sprintf("%.90s: %s: %s -> %s", r, key, shown(a, was, root), shown(b, is, root))
			n := slices.IndexFunc(table, func(re *regexp.Regexp) bool { return re.MatchString(line) })
			if n < 0 {
				t.Errorf("not in the table: %s", line)
			} else {
				seen[n] = true
			}
		}
	}
	for i, d := range fcgiwrapDifferences {
		if !seen[i] && !strings.HasPrefix(d.where, fcgiwrapRaces) {
			t.Errorf("no such difference: %s", d.where)
		}
	}
}

var tags = regexp.MustCompile(`<[^>]*>|\r?\n`)

// shown returns a value on one line.
func shown(value string, is bool, root string) string {
	if !is {
		return "none"
	}
	return fmt.Sprintf("%.60q", strings.ReplaceAll(tags.ReplaceAllString(value, ""), root, "ROOT"))
}
