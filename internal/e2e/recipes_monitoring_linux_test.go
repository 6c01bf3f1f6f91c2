//go:build interop

package e2e

import (
	"bufio"
	"cmp"
	"encoding/base64"
	"io"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// basic returns the header field of a user with a password.
func basic(user, password string) string {
	return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// nagiosContact makes alice the contact of a host.
const nagiosContact = `define contact {
	contact_name	alice
	host_notification_period	always
	service_notification_period	always
	host_notification_commands	check
	service_notification_commands	check
	}
`

// TestInteropScriptsNagios checks the programs themselves.
func TestInteropNagios(t *testing.T) {
	t.Parallel()
	need(t, "curl", "apt-get install curl")
	need(t, "openssl", "apt-get install openssl")
	needFile(t, "/usr/lib/cgi-bin/nagios4/status.cgi", "apt-get install nagios4-cgi")
	m := newMachine(t)
	m.replace = []string{"/usr/local/www/nagios/cgi-bin", "/usr/lib/cgi-bin/nagios4", "alias /usr/local/www/nagios/", "alias /usr/share/nagios4/htdocs/"}
	p := readRecipe(t, "nagios.md")
	// What the page requires, what it says about cgi.cfg, and a contact.
	i := slices.IndexFunc(p.blocks, func(b recipeBlock) bool { return b.lang == "" })
	for name, text := range nagiosFiles {
		if name == "objects.cache" {
			text = nagiosContact + change(t, text, "check_command	check\n	check_period", "check_command	check\n	contacts	alice\n	check_period")
		}
		m.write("/var/nagios/"+name, text, 0o644)
	}
	m.write("/usr/local/etc/nagios/cgi.cfg", "main_config_file=/var/nagios/nagios.cfg\nphysical_html_path=/usr/share/nagios4/htdocs\nurl_html_path=/nagios\n"+p.blocks[i].text, 0o644)
	m.follow(p)
	htpasswd := m.here("/usr/local/etc/nginx/nagios.htpasswd")
	m.run("/bin/sh", "-c", `for u in bob nagiosadmin; do printf "$u:%s\n" "$(openssl passwd -6 x)"; done >>`+htpasswd)
	os.Chmod(htpasswd, 0o644) // its group could not be set
	s := m.service("onewake_nagios")
	addr := m.startSite("")
	m.console(p)

	get := func(user, password, target string) *answer {
		return ask(t, addr, "GET", "/nagios/cgi-bin/"+target, "", basic(user, password), "X-Remote-User: nagiosadmin")
	}
	for user, sees := range map[string]bool{"alice:correct horse": true, "bob:x": false, "nagiosadmin:x": true} {
		name, password, _ := strings.Cut(user, ":")
		a := get(name, password, "statusjson.cgi?query=hostlist")
		if a.status != 200 || strings.Contains(a.body, "web1.example.org") != sees {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	get("nagiosadmin", "wrong", "statusjson.cgi?query=hostlist").wantStatus(t, 401)
	get("nagiosadmin", "x", "status.cgi/../../nagios4/none").wantStatus(t, 404)
	get("nagiosadmin", "x", "none.cgi").wantStatus(t, 404)
	if a := ask(t, addr, "GET", "/nagios/images/", "", basic("bob", "x")); a.status != 403 {
		t.Errorf("pictures: %d", a.status)
	}
	ask(t, addr, "GET", "/nagios/index.php", "", basic("bob", "x")).wantStatus(t, 403)
	s.stop()
}

// muninNode answers like munin-node with one plugin.
func muninNode(t *testing.T) (port string) {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	says := map[string]string{
		"cap": "cap\n", "nodes": "router.example.org\n.\n", "list": "load\n", "version": "munins node on router.example.org version: 2.0\n",
		"config": "graph_title Load\ngraph_vlabel load\ngraph_category system\nload.label load\n.\n", "fetch": "load.value 0.5\n.\n",
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, "# munin node at router.example.org\n")
			for lines := bufio.NewScanner(c); lines.Scan() && lines.Text() != "quit"; {
				word, _, _ := strings.Cut(lines.Text(), " ")
				io.WriteString(c, cmp.Or(says[word], "# Unknown command\n"))
			}
			c.Close()
		}
	}()
	_, port, _ = net.SplitHostPort(ln.Addr().String())
	return port
}

func TestInteropMunin(t *testing.T) {
	t.Parallel()
	need(t, "curl", "apt-get install curl")
	const programs = "/usr/lib/munin/cgi"
	needFile(t, programs+"/munin-cgi-html", "apt-get install munin libcgi-fast-perl")
	needFile(t, "/usr/share/perl5/CGI/Fast.pm", "apt-get install libcgi-fast-perl")
	m := newMachine(t)
	m.replace = []string{"/usr/local/www/cgi-bin", programs, "/usr/local/etc/munin/static", "/etc/munin/static"}
	p := readRecipe(t, "munin.md")
	// What the page requires, and what it says about munin.conf.
	i := slices.IndexFunc(p.blocks, func(b recipeBlock) bool { return b.lang == "" })
	conf := m.write("/usr/local/etc/munin/munin.conf", `dbdir /var/munin
logdir /var/log/munin
rundir /var/run/munin
htmldir /var/munin/html
cgitmpdir /var/munin/cgi-tmp
tmpldir /etc/munin/templates
staticdir /etc/munin/static
`+p.blocks[i].text+`
[example.org;router.example.org]
	address 127.0.0.1
	port `+muninNode(t)+"\n", 0o644)
	for _, dir := range []string{"/var/munin/cgi-tmp", "/var/munin/html", "/var/log/munin", "/var/run/munin"} {
		m.mkdir(dir, 0o755)
	}
	m.run("/usr/share/munin/munin-update", "--config", conf, "--nofork")
	m.run("/usr/share/munin/munin-limits", "--config", conf)
	m.follow(p)
	s := m.service("onewake_munin")
	addr := m.startSite("")
	m.console(p)

	// The pages have links to pages and graphs, and both programs work.
	page := ask(t, addr, "GET", "/munin-cgi/munin-cgi-html/example.org/router.example.org/index.html", "")
	graph := regexp.MustCompile(`/munin-cgi/munin-cgi-graph/[^"]*load-day\.png`).FindString(page.body)
	if page.status != 200 || graph == "" {
		t.Fatalf("%d %s", page.status, page.body)
	}
	for range 2 { // new and from the cache
		a := ask(t, addr, "GET", graph, "")
		if a.status != 200 || !strings.HasPrefix(a.body, "\x89PNG") || a.header.Get("Content-Type") != "image/png" || a.err != nil {
			t.Errorf("%s: %d %v, %d bytes, %v", graph, a.status, a.header, len(a.body), a.err)
		}
	}
	ask(t, addr, "GET", strings.Replace(graph, "load", "none", 1), "").wantStatus(t, 404)
	if a := ask(t, addr, "GET", "/munin-cgi/munin-cgi-html/static/style-new.css", ""); a.status != 200 || len(a.body) == 0 {
		t.Errorf("style sheet: %d", a.status)
	}
	ask(t, addr, "GET", "/munin-cgi/other", "").wantStatus(t, 404)
	s.stop()
}
