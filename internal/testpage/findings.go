package testpage

import (
	"runtime"
	"slices"
	"strings"

	"github.com/onewake/onewake/internal/cgi"
	"github.com/onewake/onewake/internal/cli"
	"github.com/onewake/onewake/sandbox"
)

// forwardedFields are the header fields that -forwarded can name, in the order of
// the page, and the nginx variables for them.
var forwardedFields = []struct{ name, nginx string }{
	{"X-Real-IP", "$remote_addr"},
	{"X-Forwarded-For", "$proxy_add_x_forwarded_for"},
	{"X-Forwarded-Proto", "$scheme"},
	{"X-Forwarded-Host", "$host:$server_port"},
	{"X-Request-Id", "$request_id"},
	{"X-Remote-User", `""`}, // without auth_basic, $remote_user is not verified
}

// received reports whether the request has this header field.
func (v *view) received(name string) bool {
	return slices.ContainsFunc(v.wire.Fields, func(f cgi.Field) bool { return strings.EqualFold(f.Name, name) })
}

func (v *view) problem(s string) { v.problems = append(v.problems, prose(s)) }
func (v *view) note(s string)    { v.notes = append(v.notes, prose(s)) }

// check finds problems in the configuration.
func (v *view) check() {
	v.checkListener()
	if v.Setup.UID == 0 {
		v.problem("onewake and its commands run as root.")
	}
	if v.wire.Protocol == "HTTP/1.0" {
		v.problem("the request uses HTTP/1.0, in which a truncated answer may look complete. nginx: `proxy_http_version 1.1;` and `proxy_set_header Connection \"\";`")
	}
	if v.Protocol == cli.FastCGI {
		v.checkParameters()
	} else {
		v.checkForwarded()
	}
	rights := "An attacker who takes over the core has all rights of user " + v.Setup.User + "."
	switch {
	case v.sandbox == sandbox.None:
		v.note("there is no sandbox: " + sandbox.ErrUnsupported.Error() + ". " + rights)
	case v.sandbox == sandbox.Off && runtime.GOOS == "freebsd":
		v.problem("the sandbox is off (`-sandbox off`). " + rights)
	case v.sandbox == sandbox.Off:
		v.note("the sandbox is off (`-sandbox off`), and " + runtime.GOOS + " has none.")
	}
}

// checkListener reports who can connect.
func (v *view) checkListener() {
	switch uid := v.r.Peer.UID; {
	case !v.wire.Unix && v.wire.Local:
		v.note("every local user can connect to a port, and can send trusted headers or FastCGI parameters. A `unix:` socket has a mode and an owner.")
	case !v.wire.Unix:
		v.problem("the port is not on the loopback interface, so other machines may connect to it without the web server. Listen on `127.0.0.1` or on a `unix:` socket.")
	case uid == 0 || uid > 0 && uid == v.Setup.UID:
		v.problem("the peer is root or onewake's own user, so this request does not show that the web server can connect. " +
			"If the peer is the web server, its workers should run as another user.")
	}
	for _, n := range v.socket.Notes {
		switch {
		case !v.socket.Open:
			v.note("socket file: " + n + ".")
		case v.Setup.Allow == "":
			v.problem("socket file: " + n + ". `-socket-mode 0660` permits only its group, `-allow` only the users in its list.")
		}
	}
}

// checkForwarded reports which headers the web server or `-forwarded` lacks.
func (v *view) checkForwarded() {
	var all, more []string // the right value of -forwarded, and what is new in it
	for _, f := range forwardedFields {
		switch {
		case v.Trusts(f.name):
			all = append(all, f.name)
			report := v.problem
			if f.name == "X-Remote-User" { // nginx does not send a field without a value
				report = v.note
			}
			if !v.received(f.name) {
				report(f.name + " is trusted (`-forwarded`) but missing. Unless the web server sets it in every request, a client can send its own. " +
					"nginx: `proxy_set_header " + f.name + " " + f.nginx + ";`")
			}
		case v.received(f.name) && !(f.name == "X-Forwarded-For" && v.Trusts("X-Real-IP")):
			all, more = append(all, f.name), append(more, f.name)
		}
	}
	if len(more) > 0 {
		v.note("not trusted: " + strings.Join(more, ", ") + ". If the web server sets it in every request, start onewake with `-forwarded " + strings.Join(all, ",") + "`")
	}
	if !v.Trusts("X-Real-IP") && !v.Trusts("X-Forwarded-For") && !v.received("X-Real-IP") && !v.received("X-Forwarded-For") {
		v.note("the client's address is unknown. nginx: `proxy_set_header X-Real-IP $remote_addr;`, and start onewake with `-forwarded " +
			strings.Join(append([]string{"X-Real-IP"}, all...), ",") + "`")
	}
}

// listFields shows the header fields with which proxies describe the client, and the
// names of those that a command does not get.
func (v *view) listFields(w *writer) {
	var withheld []string
	for _, f := range v.wire.Fields {
		name := strings.ToLower(f.Name)
		switch {
		case v.Trusts(name):
			w.row(f.Name, f.Value, "trusted (`-forwarded`); the last of repeated ones counts")
		case slices.ContainsFunc(cli.ForwardedHeaders, func(h string) bool { return strings.EqualFold(h, name) }):
			w.row(f.Name, f.Value, "not trusted, because a client can send it")
		case strings.HasPrefix(name, "x-forwarded-"), name == "forwarded":
			w.row(f.Name, f.Value, "never trusted")
		}
		_, passed := v.vars["HTTP_"+strings.ToUpper(strings.ReplaceAll(name, "-", "_"))]
		if strings.Contains(name, "_") || !passed && name != "content-length" && name != "content-type" {
			withheld = append(withheld, f.Name)
		}
	}
	if len(withheld) > 0 {
		w.row("Not passed on", strings.Join(slices.Compact(withheld), ", "), "a command does not get it")
	}
}
