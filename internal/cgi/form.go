package cgi

import (
	"net/url"
	"strings"
)

// maxFormNames is how many variables of -form one request can have.
const maxFormNames = 64

// addForm adds the values of the query and of an urlencoded body, each as a
// variable FORM_NAME (-form). Nothing is evaluated on the way, so that a shell
// script gets each value as it was meant. The first of a repeated name counts,
// and the query comes before the body.
func addForm(r *Request, b *body) error {
	text := r.Query
	kind, _, _ := strings.Cut(r.Type, ";")
	if strings.EqualFold(strings.TrimSpace(kind), "application/x-www-form-urlencoded") {
		if b.file != nil {
			return &Refusal{Status: 413, Reason: "a form of more than 64 KiB"}
		}
		text += "&" + string(b.memory)
	}
	seen := make(map[string]bool)
	for pair := range strings.SplitSeq(text, "&") {
		name, value, _ := strings.Cut(pair, "=")
		name, err1 := url.QueryUnescape(name)
		value, err2 := url.QueryUnescape(value)
		switch {
		case err1 != nil || err2 != nil:
			return &Refusal{Status: 400, Reason: "malformed percent-encoding in a form"}
		case strings.Contains(value, "\x00"):
			return &Refusal{Status: 400, Reason: "NUL in a form"}
		case !isFormName(name) || seen[name] || len(seen) == maxFormNames:
			continue
		}
		seen[name] = true
		r.Vars.Add("FORM_"+name, value)
	}
	return nil
}

// isFormName tells whether a name can be that of a variable of the shell.
func isFormName(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(c rune) bool {
		return c != '_' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z')
	})
}
