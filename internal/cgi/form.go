package cgi

import (
	"net/url"
	"strings"
)

// maxFormNames is the largest number of FORM_* variables of a request.
const maxFormNames = 64

// addForm adds each value of the query and of an urlencoded body as a variable
// FORM_NAME (-form), so that a shell script need not parse them. If a name is
// repeated the first value counts; the query comes before the body.
func addForm(r *Request, b *body) error {
	text := r.Query
	kind, _, _ := strings.Cut(r.Type, ";")
	if strings.EqualFold(strings.TrimSpace(kind), "application/x-www-form-urlencoded") {
		if b.file != nil {
			return &Refusal{Status: 413, Reason: "form larger than 64 KiB"}
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

// isFormName reports whether name consists of characters allowed in shell variables.
func isFormName(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(c rune) bool {
		return c != '_' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z')
	})
}
