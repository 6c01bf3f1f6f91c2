//go:build interop

package e2e

import (
	"html"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// These tests run directories of well-known programs.

// scripts starts onewake with a directory of programs, as the user of m.
func (m *machine) scripts(dir string, flags ...string) *server {
	m.t.Helper()
	return launch{cred: m.onewake, args: append([]string{"-scripts", dir, "-socket-mode", "0666"}, flags...)}.start(m.t)
}

// links makes a directory of symbolic links to installed programs.
func (m *machine) links(path string, links map[string]string) string {
	m.t.Helper()
	m.mkdir(path, 0o755)
	for name, program := range links {
		needFile(m.t, program, "the packages at the head of .ci/run")
		if err := os.Symlink(program, m.root+path+"/"+name); err != nil {
			m.t.Fatal(err)
		}
	}
	return m.root + path
}

// passwords makes a password file for alice and bob.
func (m *machine) passwords() string {
	m.t.Helper()
	return m.write(m.root+"/etc/htpasswd", "alice:{PLAIN}one\nbob:{PLAIN}two\n", 0o644)
}

const (
	asAlice = "Authorization: Basic YWxpY2U6b25l"
	asBob   = "Authorization: Basic Ym9iOnR3bw=="
)

// overFastCGI returns a location of nginx for a directory of scripts.
func overFastCGI(path, dir, socket, more string) string {
	return "location " + path + "/ {\n" + more + `
include /etc/nginx/fastcgi_params;
fastcgi_param SCRIPT_FILENAME ` + dir + `$fastcgi_script_name;
fastcgi_pass unix:` + socket + `;
}`
}

// nagiosFiles are the files that nagios would have written for one host with
// one service.
var nagiosFiles = map[string]string{
	"cgi.cfg": `main_config_file=/var/nagios/nagios.cfg
physical_html_path=/usr/share/nagios4/htdocs
url_html_path=/nagios
use_authentication=1
authorized_for_all_hosts=alice
authorized_for_all_services=alice
authorized_for_system_information=alice
authorized_for_configuration_information=alice
`,
	"nagios.cfg": `object_cache_file=/var/nagios/objects.cache
status_file=/var/nagios/status.dat
log_file=/var/nagios/nagios.log
log_archive_path=/var/nagios
`,
	"objects.cache": `define timeperiod {
	timeperiod_name	always
	alias	always
	}
define command {
	command_name	check
	command_line	/bin/true
	}
define host {
	host_name	web1.example.org
	check_command	check
	check_period	always
	max_check_attempts	10
	}
define service {
	host_name	web1.example.org
	service_description	HTTP
	check_command	check
	check_period	always
	max_check_attempts	4
	}
`,
	"status.dat": `info {
	version=4.4.6
	}
programstatus {
	nagios_pid=1
	}
hoststatus {
	host_name=web1.example.org
	current_state=0
	has_been_checked=1
	plugin_output=it answers
	}
servicestatus {
	host_name=web1.example.org
	service_description=HTTP
	current_state=2
	has_been_checked=1
	plugin_output=connection refused
	}
`,
	"nagios.log": "[1790000000] Nagios 4.4.6 starting...\n",
}

// nagiosLink matches a link in a page or in the menu, which is PHP.
var nagiosLink = regexp.MustCompile(`(?:href=['"]|\?>/)([a-z]+\.cgi[^'"#]*)['"]`)

// TestInteropScriptsNagios checks that every link between the twenty programs
// of nagios works, over HTTP and over FastCGI, and that they show what the user
// may see.
func TestInteropScriptsNagios(t *testing.T) {
	t.Parallel()
	const programs = "/usr/lib/cgi-bin/nagios4"
	needFile(t, programs, "apt-get install nagios4-cgi")
	needFile(t, "/etc/nginx/fastcgi_params", "apt-get install nginx-common")
	m := newMachine(t)
	for name, text := range nagiosFiles {
		m.write("/var/nagios/"+name, text, 0o644)
	}
	env := []string{"-env", "NAGIOS_CGI_CONFIG=" + m.here("/var/nagios/cgi.cfg")}
	http := m.scripts(programs, append(env, "-script-name", "/http", "-forwarded", "X-Remote-User")...)
	fcgi := m.scripts(programs, append(env, "-protocol", "fastcgi")...)
	w := startWeb(t, "nginx", webConfig{site: "auth_basic x;\nauth_basic_user_file " + m.passwords() + ";\n" +
		"location /http/ {\nproxy_set_header X-Remote-User $remote_user;\nproxy_pass http://unix:" + http.path + ";\n}\n" +
		"location ~ ^/fcgi(?<below>/.*) {\ninclude /etc/nginx/fastcgi_params;\nfastcgi_param SCRIPT_FILENAME " + programs + "$below;\nfastcgi_pass unix:" + fcgi.path + ";\n}"})
	for _, at := range []string{"/http/", "/fcgi/"} {
		ask(t, w.addr, "GET", at+"status.cgi", "").wantStatus(t, 401)
		if a := ask(t, w.addr, "GET", at+"status.cgi?host=all", "", asBob); a.status != 200 || !strings.Contains(a.body, "do not have permission") || strings.Contains(a.body, "connection refused") {
			t.Errorf("bob sees %d\n%s", a.status, a.body)
		}
		if a := ask(t, w.addr, "POST", at+"status.cgi", "host=all", asAlice, "Content-Type: application/x-www-form-urlencoded"); a.status != 200 || !strings.Contains(a.body, "connection refused") {
			t.Errorf("alice sees %d\n%s", a.status, a.body)
		}
		if a := ask(t, w.addr, "GET", at+"statusjson.cgi?query=host&hostname=web1.example.org", "", asAlice); a.header.Get("Content-Type") != "application/json; charset=utf-8" || !strings.Contains(a.body, "it answers") {
			t.Errorf("%v\n%s", a.header, a.body)
		}
		nagiosLinks(t, w.addr, at)
	}
	w.stop()
	http.stop()
	fcgi.stop()
}

// nagiosLinks follows the links of the menu and of the pages that they lead to,
// once for each program.
func nagiosLinks(t *testing.T, addr, at string) {
	t.Helper()
	menu, err := os.ReadFile("/usr/share/nagios4/htdocs/side.php")
	if err != nil {
		t.Fatal(err)
	}
	var next []string
	look := func(page string) {
		for _, link := range nagiosLink.FindAllStringSubmatch(page, -1) {
			next = append(next, strings.ReplaceAll(html.UnescapeString(link[1]), " ", "%20"))
		}
	}
	seen := make(map[string]bool)
	for look(string(menu)); len(next) > 0; next = next[1:] {
		name, _, _ := strings.Cut(next[0], "?")
		if seen[name] {
			continue
		}
		seen[name] = true
		a := ask(t, addr, "GET", at+next[0], "", asAlice)
		if a.status != 200 || !strings.Contains(a.body, "Logged in as <i>alice</i>") || strings.Contains(a.body, "Whoops") {
			t.Errorf("%s%s: %d\n%s", at, next[0], a.status, a.body)
		}
		look(a.body)
	}
	if len(seen) < 10 {
		t.Errorf("links lead only to %v", slices.Sorted(maps.Keys(seen)))
	}
}

// TestInteropScriptsGitViews checks that cgit and gitweb show the same
// repository.
func TestInteropScriptsGitViews(t *testing.T) {
	t.Parallel()
	git := need(t, "git", "apt-get install git")
	m := newMachine(t)
	dir := m.links("/srv", map[string]string{"cgit": "/usr/lib/cgit/cgit.cgi", "gitweb": "/usr/share/gitweb/gitweb.cgi"})
	repo, work := m.here("/var/git/example.git"), m.here("/var/tmp/one")
	m.run(git, "init", "-q", "--bare", "-b", "main", repo)
	m.run(git, "clone", "-q", repo, work)
	m.write("/var/tmp/one/odd name.txt", "what is in it\n", 0o644)
	m.run(git, "-C", work, "add", ".")
	m.run(git, "-C", work, "commit", "-q", "-m", "a subject to be seen")
	m.run(git, "-C", work, "push", "-q", "origin", "HEAD:main")
	commit := m.run(git, "-C", work, "rev-parse", "HEAD")
	cgitrc := m.write("/var/cgitrc", "remove-suffix=0\nscan-path=/var/git\n", 0o644)
	conf := m.write("/var/gitweb.conf", "our $projectroot = '/var/git'; our $git_temp = '/var/tmp';\n", 0o644)
	s := m.scripts(dir, "-script-name", "/view", "-env", "CGIT_CONFIG="+cgitrc, "-env", "GITWEB_CONFIG="+conf)
	for target, want := range map[string][]string{
		"/view/cgit/":                                             {"'/view/cgit/example.git/'"},
		"/view/cgit/example.git/log/":                             {"a subject to be seen", "'/view/cgit/example.git/commit/?id=" + commit + "'"},
		"/view/cgit/example.git/plain/odd%20name.txt":             {"what is in it\n"},
		"/view/gitweb":                                            {`href="/view/gitweb?p=example.git;a=summary"`},
		"/view/gitweb?p=example.git;a=log":                        {"a subject to be seen", "a=commit;h=" + commit},
		"/view/gitweb/example.git/log/main":                       {"a subject to be seen"},
		"/view/gitweb?p=example.git;a=blob_plain;f=odd+name.txt;": {"what is in it\n"},
	} {
		a := s.get(target)
		for _, text := range want {
			if a.status != 200 || !strings.Contains(a.body, text) {
				t.Errorf("%s: %d, no %s in\n%s", target, a.status, text, a.body)
			}
		}
	}
	s.get("/view/cgit/nothing/").wantStatus(t, 404)
	s.get("/view/gitweb?p=nothing").wantStatus(t, 404)
	s.get("/view/cgi").wantStatus(t, 404)
	s.get("/view/").wantStatus(t, 404)
	s.stop()
}

// TestInteropScriptsGit runs git-http-backend as one of the programs behind
// nginx, which asks for a password. Users with a password can push.
func TestInteropScriptsGit(t *testing.T) {
	t.Parallel()
	git := need(t, "git", "apt-get install git")
	needFile(t, "/etc/nginx/fastcgi_params", "apt-get install nginx-common")
	m := newMachine(t)
	dir := m.links("/srv", map[string]string{"git": need(t, "git-http-backend", "apt-get install git")})
	repo, one, two := m.here("/var/git/example.git"), m.here("/var/tmp/one"), m.here("/var/tmp/two")
	m.run(git, "init", "-q", "--bare", "-b", "main", repo)
	s := m.scripts(dir, "-protocol", "fastcgi", "-env", "GIT_PROJECT_ROOT="+m.here("/var/git"), "-env", "GIT_HTTP_EXPORT_ALL=1")
	w := startWeb(t, "nginx", webConfig{site: overFastCGI("/git", dir, s.path, "client_max_body_size 0;\nauth_basic x;\nauth_basic_user_file "+m.passwords()+";")})
	url := "http://alice:one@" + strings.TrimPrefix(w.addr, "tcp:") + "/git/example.git"
	m.run(git, "clone", "-q", url, one)
	large := strings.Repeat("0123456789abcdef", 1<<17) // more than is kept in memory
	m.write("/var/tmp/one/large", large, 0o644)
	m.run(git, "-C", one, "add", ".")
	m.run(git, "-C", one, "-c", "core.compression=0", "commit", "-q", "-m", "large")
	m.run(git, "-C", one, "-c", "core.compression=0", "-c", "pack.compression=0", "-c", "http.postBuffer=100000", "push", "-q", "origin", "HEAD:main")
	if got, want := m.run(git, "-C", repo, "rev-parse", "main"), m.run(git, "-C", one, "rev-parse", "HEAD"); got != want {
		t.Errorf("main is %s, want %s", got, want)
	}
	m.run(git, "clone", "-q", url, two)
	if b, err := os.ReadFile(two + "/large"); err != nil || string(b) != large {
		t.Errorf("cloned %d bytes, %v", len(b), err)
	}
	out, err := m.command(m.onewake, git, "ls-remote", strings.Replace(url, "one@", "two@", 1)).CombinedOutput()
	if err == nil {
		t.Errorf("with a wrong password: %s", out)
	}
	s.await("request", "target", "/git/example.git/git-receive-pack", "method", "POST", "status", "200")
	w.stop()
	s.stop()
}

// TestInteropScriptsLanguages runs programs in three languages over both
// protocols, and one that is added later.
func TestInteropScriptsLanguages(t *testing.T) {
	t.Parallel()
	needFile(t, "/usr/share/perl5/CGI.pm", "apt-get install libcgi-pm-perl")
	needFile(t, "/etc/nginx/fastcgi_params", "apt-get install nginx-common")
	need(t, "python3", "apt-get install python3")
	m := newMachine(t)
	m.mkdir("/srv/cgi-bin", 0o755)
	write := func(name, text string) { m.write(m.root+"/srv/cgi-bin/"+name, text, 0o755) }
	for _, name := range []string{"form.pl", "app.py", "redirect.pl"} {
		write(name, fcgiwrapPrograms[name])
	}
	write("sub/hello.sh", "#!/bin/sh\nprintf 'Content-Type: text/plain\\n\\n'; echo \"$SCRIPT_NAME|$PATH_INFO|$QUERY_STRING|$(pwd)\"; cat")
	http := m.scripts(m.root+"/srv/cgi-bin", "-script-name", "/http/cgi-bin")
	fcgi := m.scripts(m.root+"/srv/cgi-bin", "-protocol", "fastcgi")
	w := startWeb(t, "nginx", webConfig{site: "location /http/ {\nproxy_set_header Host example.org;\nproxy_pass http://unix:" + http.path + ";\n}\n" +
		"location ~ ^/fcgi(?<below>/.*) {\ninclude /etc/nginx/fastcgi_params;\nfastcgi_param SCRIPT_FILENAME " + m.root + "/srv$below;\nfastcgi_pass unix:" + fcgi.path + ";\n}"})
	for _, at := range []string{"/http/cgi-bin/", "/fcgi/cgi-bin/"} {
		get := func(target string, fields ...string) *answer { return ask(t, w.addr, "GET", at+target, "", fields...) }
		a := ask(t, w.addr, "POST", at+"form.pl/a%20b?q=1", "a=1&b=%C3%A9&a=2", "Content-Type: application/x-www-form-urlencoded", "Cookie: c=4")
		a.want(t, 200, "a=1,2|b=\xc3\xa9\nPOST|http://example.org"+at+"form.pl/a%20b|/a b|4|nobody\n")
		if len(a.header["Set-Cookie"]) != 2 || a.header.Get("X-Made") != "by perl" {
			t.Errorf("%v", a.header)
		}
		if a := get("redirect.pl"); a.status != 303 || !strings.HasSuffix(a.header.Get("Location"), "/cgi-bin/form.pl") || !strings.HasPrefix(a.header.Get("Set-Cookie"), "a=1") {
			t.Errorf("%d %v", a.status, a.header)
		}
		ask(t, w.addr, "PUT", at+"app.py?x+y", strings.Repeat("z", 100000)).want(t, 201, "(100000, b'"+strings.Repeat("z", 20)+"', 'PUT', 'x+y', [])")
		get("sub/hello.sh/a%2Fb?c").want(t, 200, at+"sub/hello.sh|/a/b|c|"+m.root+"/srv/cgi-bin/sub\n")
		get("sub/later.sh").wantStatus(t, 404)
		write("sub/later.sh", "#!/bin/sh\nprintf 'Content-Type: text/plain\\n\\n'; echo later")
		eventually(t, "a program that was not there is found", func() bool { return get("sub/later.sh").body == "later\n" })
		if err := os.Remove(m.root + "/srv/cgi-bin/sub/later.sh"); err != nil {
			t.Fatal(err)
		}
		get("sub/later.sh").wantStatus(t, 404)
	}
	w.stop()
	http.stop()
	fcgi.stop()
}
