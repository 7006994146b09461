package coreclient

import (
	"encoding/json"
	"errors"
	"fmt"
)

// maxBody bounds what is read of one answer.
const maxBody = 1 << 20

// Context is the security context of an API invoker (ServiceSecurity, TS 29.222 8.5.4.2.2), reduced to
// what it lists. Credentials in it are not kept.
type Context struct {
	// Entries name an aefId, an apiId or both.
	Entries []Entry
	// Unnamed counts entries that name neither, such as those that describe an interface by its address
	// only. They cover nothing: it cannot be told whose interface or which API they mean.
	Unnamed int
}

// Entry is one securityInfo element; "" is an absent id.
type Entry struct{ AEFID, APIID string }

// Lists tells whether the context lists the API at the AEF. An entry without apiId covers every API of
// its aefId, and one without aefId covers its apiId at any AEF. One without either covers nothing.
func (c Context) Lists(aefID, apiID string) bool {
	for _, e := range c.Entries {
		if e == (Entry{}) {
			continue
		}
		if (e.AEFID == "" || e.AEFID == aefID) && (e.APIID == "" || e.APIID == apiID) {
			return true
		}
	}
	return false
}

// decodeContext reads the body of a 200. Members it does not know are tolerated (TS 29.222 7.11), but
// JSON without securityInfo is no context: taking it for an empty one would refuse every API.
func decodeContext(body []byte) (Context, error) {
	if len(body) > maxBody {
		return Context{}, fmt.Errorf("answer is longer than %d bytes", maxBody)
	}
	var wire struct {
		SecurityInfo json.RawMessage `json:"securityInfo"`
	}
	if err := json.Unmarshal(body, &wire); err != nil {
		return Context{}, fmt.Errorf("answer is no security context: %w", err)
	}
	if wire.SecurityInfo == nil {
		return Context{}, errors.New("answer is no security context: it has no securityInfo")
	}
	var infos []*struct {
		AEFID string `json:"aefId"`
		APIID string `json:"apiId"`
	}
	// null is an empty list, as written by encoders that know no empty one.
	if err := json.Unmarshal(wire.SecurityInfo, &infos); err != nil {
		return Context{}, fmt.Errorf("answer is no security context: securityInfo: %w", err)
	}
	var sc Context
	for _, info := range infos {
		if info == nil || info.AEFID == "" && info.APIID == "" {
			sc.Unnamed++
			continue
		}
		sc.Entries = append(sc.Entries, Entry{AEFID: info.AEFID, APIID: info.APIID})
	}
	return sc, nil
}
