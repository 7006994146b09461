package coreclient

import (
	"bytes"
	"encoding/json"
	"mime"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxReason bounds Error.Reason, in bytes.
const maxReason = 300

// problem is what the body of an error says.
type problem struct {
	reason    string
	coreShape bool
}

// readProblem reads the body of an error, whatever it is. What is read of JSON are ProblemDetails
// (TS 29.122 5.2.1.2.12); some cores send them as text/plain, and some leave out most members.
func readProblem(contentType string, status int, body []byte) problem {
	trimmed := bytes.TrimSpace(body)
	if len(trimmed) == 0 {
		return problem{}
	}
	if trimmed[0] == '{' {
		var details struct {
			Title  string          `json:"title"`
			Detail string          `json:"detail"`
			Cause  string          `json:"cause"`
			Status json.RawMessage `json:"status"`
			Params []struct {
				Param  string `json:"param"`
				Reason string `json:"reason"`
			} `json:"invalidParams"`
		}
		// A member of another type leaves the others readable: the reason is worth having all the same.
		err := json.Unmarshal(trimmed, &details)
		reason := details.Detail
		if reason == "" {
			reason = details.Cause
		}
		if reason == "" {
			reason = details.Title
		}
		named := reason != ""
		for _, p := range details.Params[:min(len(details.Params), 3)] {
			reason += " [" + p.Param + ": " + p.Reason + "]"
		}
		if reason = clean(reason); reason != "" {
			return problem{
				reason:    reason,
				coreShape: err == nil && named && isJSON(contentType) && statusAgrees(details.Status, status),
			}
		}
	}
	if trimmed[0] == '<' {
		return problem{reason: clean("HTML page: " + htmlTitle(string(trimmed)))}
	}
	return problem{reason: clean(string(trimmed))}
}

func isJSON(contentType string) bool {
	mediaType, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return false
	}
	return mediaType == "application/json" || strings.HasSuffix(mediaType, "+json")
}

func statusAgrees(raw json.RawMessage, status int) bool {
	if raw == nil || string(raw) == "null" {
		return true
	}
	var n int
	return json.Unmarshal(raw, &n) == nil && n == status
}

// htmlTitle is the title of a page: with proxies the one line that says what is wrong.
func htmlTitle(page string) string {
	lower := strings.ToLower(page)
	if len(lower) != len(page) {
		return "no title" // lower case of another length: offsets would not fit
	}
	start := strings.Index(lower, "<title>")
	if start < 0 {
		return "no title"
	}
	start += len("<title>")
	end := strings.Index(lower[start:], "</title>")
	if end < 0 {
		return "no title"
	}
	return page[start : start+end]
}

// clean makes foreign text fit for a log line: valid UTF-8, printable, single spaces, at most maxReason
// bytes.
func clean(s string) string {
	var b strings.Builder
	space := false
	for _, r := range s {
		if unicode.IsSpace(r) {
			space = b.Len() > 0
			continue
		}
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			continue
		}
		need := utf8.RuneLen(r)
		if space {
			need++
		}
		if b.Len()+need > maxReason {
			break
		}
		if space {
			b.WriteByte(' ')
			space = false
		}
		b.WriteRune(r)
	}
	return b.String()
}
