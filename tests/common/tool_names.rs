//! Listing tools through all pages.

use serde_json::json;

use super::mcp::Client;

/// The names of all tools, of all pages.
pub async fn tool_names(client: &Client) -> Vec<String> {
    let mut names = Vec::new();
    let mut params = json!({});
    loop {
        let reply = client.request("tools/list", params).await.unwrap();
        let result = reply.result();
        names.extend(result["tools"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap().to_owned()));
        match result.get("nextCursor") {
            Some(cursor) => params = json!({"cursor": cursor}),
            None => return names,
        }
    }
}
