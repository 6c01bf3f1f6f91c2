//go:build interop

package e2e

import (
	"encoding/base64"
	"os"
	"slices"
	"strings"
	"testing"
)

// basic is the field of a user with a password.
func basic(user, password string) string {
	return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// nagiosContact is alice, to be the contact of a host.
const nagiosContact = `define contact {
	contact_name	alice
	host_notification_period	always
	service_notification_period	always
	host_notification_commands	check
	service_notification_commands	check
	}
`

// What these programs do is TestInteropScriptsNagios's.
func TestInteropNagios(t *testing.T) {
	t.Parallel()
	need(t, "curl", "apt-get install curl")
	need(t, "openssl", "apt-get install openssl")
	needFile(t, "/usr/lib/cgi-bin/nagios4/status.cgi", "apt-get install nagios4-cgi")
	m := newMachine(t)
	m.replace = []string{"/usr/local/www/nagios/cgi-bin", "/usr/lib/cgi-bin/nagios4", "alias /usr/local/www/nagios/", "alias /usr/share/nagios4/htdocs/"}
	p := readRecipe(t, "nagios.md")
	// What the page takes for granted, with what it says of cgi.cfg, and a contact.
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

	as := func(user, password, target string) *answer {
		return ask(t, addr, "GET", "/nagios/cgi-bin/"+target, "", basic(user, password), "X-Remote-User: nagiosadmin")
	}
	for user, sees := range map[string]bool{"alice:correct horse": true, "bob:x": false, "nagiosadmin:x": true} {
		name, password, _ := strings.Cut(user, ":")
		a := as(name, password, "statusjson.cgi?query=hostlist")
		if a.status != 200 || strings.Contains(a.body, "web1.example.org") != sees {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	as("nagiosadmin", "wrong", "statusjson.cgi?query=hostlist").wantStatus(t, 401)
	as("nagiosadmin", "x", "status.cgi/../../nagios4/none").wantStatus(t, 404)
	as("nagiosadmin", "x", "none.cgi").wantStatus(t, 404)
	if a := ask(t, addr, "GET", "/nagios/images/", "", basic("bob", "x")); a.status != 403 {
		t.Errorf("pictures: %d", a.status)
	}
	ask(t, addr, "GET", "/nagios/index.php", "", basic("bob", "x")).wantStatus(t, 403)
	s.stop()
}
